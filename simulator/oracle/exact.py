"""Exhaustive search on tiny worlds: the best that any policy can do under the rules of change.

The history stands still; at each refocus up to ``n_diff`` expands and collapses may be made, no
node may flip within the cooldown, and budget and headroom hold after every action. The search
visits every reachable state, so it serves to check the two bounds that scale: it lies at or below
the free-switching optimum and at or above every feasible policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from megacontext.simulator.oracle.optimum import Bounds
from megacontext.simulator.oracle.utility import detail
from megacontext.simulator.streams.base import Truth

__all__ = ["Tiny", "exact_utility", "legal_actions", "utility_of"]

Node = tuple[int, int]
Frontier = tuple[Node, ...]
Flip = tuple[Node, int, int]
"""(node, kind, refocuses ago)."""


@dataclass(frozen=True)
class Tiny:
    """A world small enough for exhaustive search: ``n_blocks`` blocks, no tail, no appends."""

    n_blocks: int
    bounds: Bounds
    n_diff: int
    cooldown_steps: int


def utility_of(frontier: Frontier, truth: Truth, block_size: int) -> float:
    """Utility of a frontier of (level, index) nodes, block by block."""
    utility = 0.0
    for block, weight in zip(truth.blocks.tolist(), truth.weights.tolist(), strict=True):
        for level, index in frontier:
            width = block_size ** (max(level, 1) - 1)
            if index * width <= block < (index + 1) * width:
                utility += weight * detail(level)
    return utility


def legal_actions(frontier: Frontier, tiny: Tiny) -> Iterator[tuple[int, Node, Frontier]]:
    """(kind, node, frontier after) of every action that tiling, budget and headroom allow."""
    size = tiny.bounds.block_size
    limit = tiny.bounds.w_max - size
    first_protected = tiny.n_blocks - tiny.bounds.protected_blocks
    present = set(frontier)
    cost = sum(size if level == 0 else 1 for level, _ in frontier)
    for level, index in frontier:
        if level >= 1 and cost + size - 1 <= limit:
            node = (level, index)
            yield 0, node, _replace(frontier, [node], _children(level, index, size))
        parent = (level + 1, index if level == 0 else index // size)
        if parent[0] > tiny.bounds.max_levels:
            continue
        group = _children(*parent, size)
        if group[0] != (level, index) or not present.issuperset(group):
            continue
        if (parent[1] + 1) * size ** (parent[0] - 1) <= first_protected:
            yield 1, parent, _replace(frontier, group, [parent])


def _children(level: int, index: int, size: int) -> list[Node]:
    if level == 1:
        return [(0, index)]
    return [(level - 1, index * size + child) for child in range(size)]


def _replace(frontier: Frontier, old: list[Node], new: list[Node]) -> Frontier:
    at = frontier.index(old[0])
    return (*frontier[:at], *new, *frontier[at + len(old) :])


def exact_utility(start: Frontier, truths: tuple[Truth, ...], tiny: Tiny) -> float:
    """The largest sum of utilities over ``truths``, one refocus each, from ``start``."""

    @cache
    def best(frontier: Frontier, flips: tuple[Flip, ...], time: int) -> float:
        if time == len(truths):
            return 0.0
        value = 0.0
        for after, new_flips in _plans(frontier, flips, tiny):
            fresh = {flip[0] for flip in new_flips}
            old = [flip for flip in flips if flip[0] not in fresh]
            aged = [(node, kind, age + 1) for node, kind, age in [*old, *new_flips]]
            memory = tuple(sorted(flip for flip in aged if flip[2] <= tiny.cooldown_steps))
            now = utility_of(after, truths[time], tiny.bounds.block_size)
            value = max(value, now + best(after, memory, time + 1))
        return value

    return best(start, (), 0)


def _plans(
    frontier: Frontier, flips: tuple[Flip, ...], tiny: Tiny
) -> list[tuple[Frontier, tuple[Flip, ...]]]:
    """Every reachable frontier within ``n_diff`` actions, with the flips that led there."""
    cooling = {node: kind for node, kind, _ in flips}
    plans: dict[tuple[Frontier, tuple[Flip, ...]], None] = {(frontier, ()): None}
    edge = list(plans)
    for _ in range(tiny.n_diff):
        reached = []
        for state, new_flips in edge:
            busy = cooling | {node: kind for node, kind, _ in new_flips}
            for kind, node, after in legal_actions(state, tiny):
                if busy.get(node, kind) != kind:
                    continue
                plan = (after, tuple(sorted((*new_flips, (node, kind, 0)))))
                if plan not in plans:
                    plans[plan] = None
                    reached.append(plan)
        edge = reached
    return list(plans)
