"""The choices of a round, decided again: forced collapses of every allocator, all of greedy's.

Written from the text of the rules in plain Python numbers, one candidate at a time; nothing here
calls the code under test. What may not be done (cooldown, protection, arms) is asked of the
checker's own memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, takewhile
from typing import NamedTuple

import numpy as np

from megacontext.simulator.checks.frontier import Shadow
from megacontext.traces.schema import MAX_REJECTED, ActionKind, Reason

__all__ = ["Choice", "Memory", "Situation", "decide_forced", "decide_greedy"]

_EXPAND, _COLLAPSE = int(ActionKind.EXPAND), int(ActionKind.COLLAPSE)
_HEADROOM, _CUT = int(Reason.HEADROOM), int(Reason.BUDGET_CUT)
_OVERRIDE = int(Reason.FORCED_OVERRIDE)
_SCORE, _PAIR = int(Reason.SCORE), int(Reason.PAIR)

Choice = tuple[int, int, int, int]
"""(kind, level, index, reason)."""


@dataclass(frozen=True)
class Memory:
    """What the checker remembers, as questions about a node (level, index)."""

    cooling: Callable[[int, int, int], bool]
    protected: Callable[[int, int], bool]
    newest: Callable[[int, int], bool]
    disarmed: Callable[[int, int], bool]


class _Group(NamedTuple):
    """What one collapse replaces: entries [at, at + members) by the gist (level, number).

    Sorted, the lowest score comes first, and the oldest among equals.
    """

    score: float
    at: int
    members: int
    level: int
    number: int


@lru_cache(maxsize=256)
def _single(threshold: float) -> float:
    """The threshold in single precision, as the policy compares with it."""
    return float(np.float32(threshold))


class Situation:
    """A frontier with scores before anything is done in a round."""

    def __init__(self, shadow: Shadow, scores: np.ndarray, memory: Memory) -> None:
        self.size, self.max_levels, self.width = shadow.block_size, shadow.max_levels, shadow.width
        self.levels = list(shadow.levels)
        self.starts = list(shadow.starts)
        self.scores: list[float] = scores.tolist()
        self.memory = memory
        self.forced: set[tuple[int, int]] = set()  # gists that this round made by force
        self.taken: list[_Group] = []  # groups of this frontier that are gone by force

    def groups(self) -> list[_Group]:
        """All groups, lowest score first, oldest first among equals."""
        groups, at, size = [], 0, self.size
        levels, starts, scores, widths = self.levels, self.starts, self.scores, self.width
        while at < len(levels):
            level = levels[at]
            if level == 0:  # a raw block is a group of its own
                groups.append(_Group(scores[at], at, 1, 1, starts[at] // widths[1]))
                at += 1
                continue
            width = widths[level + 1] if level < self.max_levels else 0
            whole = width and starts[at] % width == 0 and levels[at : at + size] == [level] * size
            if not whole:
                at += 1
                continue
            score = max(scores[at : at + size])
            groups.append(_Group(score, at, size, level + 1, starts[at] // width))
            at += size
        return sorted(groups)

    def is_taken(self, at: int) -> bool:
        return any(group.at <= at < group.at + group.members for group in self.taken)

    def collapse(self, groups: list[_Group]) -> None:
        """Put the gists of ``groups`` in their places, each with its group's score."""
        for group in sorted(groups, key=lambda group: -group.at):
            part = slice(group.at, group.at + group.members)
            self.levels[part] = [group.level]
            self.starts[part] = [group.number * self.width[group.level]]
            self.scores[part] = [group.score]


def decide_forced(now: Situation, free: int) -> tuple[list[Choice], int]:
    """Collapses until ``free`` entries hold a block, and the entries that are free then.

    Open groups first, of them those beyond the newest blocks; cooling ones only where no other is
    left. Groups that the collapses themselves complete count only when the others are used up.
    """
    chosen: list[Choice] = []
    size, memory = now.size, now.memory
    while free < size:
        need = -((free - size) // (size - 1))

        # Prefer open groups away from the newest blocks; cooling ones are the last resort.
        cooling: list[_Group] = []
        is_open: list[_Group] = []
        for group in now.groups():
            if not memory.protected(group.level, group.number):
                shut = memory.cooling(_COLLAPSE, group.level, group.number)
                (cooling if shut else is_open).append(group)
        far = [g for g in is_open if not memory.newest(g.level, g.number)]
        rows = (far or is_open or cooling)[:need]
        if not rows:
            return chosen, free

        # Collapses that only bring the cost back under w_max have the reason of a budget cut.
        over = -free
        for number, group in enumerate(rows):
            reason = _CUT if number * (size - 1) < over else _HEADROOM
            reason = reason if is_open else _OVERRIDE
            chosen.append((_COLLAPSE, group.level, group.number, reason))
            now.forced.add((group.level, group.number))

        # Too few groups: collapse them, as their gists may complete groups of the next level.
        free += len(rows) * (size - 1)
        if len(rows) < need:
            now.collapse(rows)
        else:
            now.taken = rows
    return chosen, free


class _Lazy:
    """Groups that are found out one by one as they are wanted."""

    def __init__(self, groups: Iterator[_Group]) -> None:
        self._groups = groups
        self._known: list[_Group] = []

    def __iter__(self) -> Iterator[_Group]:
        yield from self._known
        for group in self._groups:
            self._known.append(group)
            yield group


class _Greedy:
    """The state of one walk along the wishes."""

    def __init__(self, collapsible: Iterable[_Group], free_slots: int, margin: float) -> None:
        self.collapsible, self.free_slots, self.margin = collapsible, free_slots, margin
        self.gone: list[_Group] = []
        self.expanded: list[int] = []
        self.chosen: list[Choice] = []

    def intact(self, group: _Group) -> bool:
        inside = range(group.at, group.at + group.members)
        return group not in self.gone and not any(at in inside for at in self.expanded)

    def collapse(self, group: _Group, reason: int) -> None:
        self.gone.append(group)
        self.free_slots += 1
        self.chosen.append((_COLLAPSE, group.level, group.number, reason))

    def expand(self, node: tuple[int, int], at: int, reason: int) -> None:
        self.expanded.append(at)
        self.free_slots -= 1
        self.chosen.append((_EXPAND, *node, reason))

    def swap(self, node: tuple[int, int], at: int, score: float, left: int) -> None:
        for group in self.collapsible:
            if self.intact(group) and not group.at <= at < group.at + group.members:
                if score - group.score > self.margin and left >= 2:
                    self.collapse(group, _PAIR)
                    self.expand(node, at, _PAIR)
                return


def decide_greedy(
    now: Situation, free: int, n_diff: int, tau_expand: float, tau_collapse: float
) -> list[Choice]:
    """What the greedy policy chooses in ``now`` after the forced collapses.

    Strongest score first, expansions before collapses of equal strength, newest expansion and
    oldest collapse first among equals; an expansion without room takes the cheapest group along.
    """
    high, low = _single(tau_expand), _single(-tau_collapse)
    memory = now.memory

    # Wishes: as many candidates as the policy may look at.
    expands = []
    for at, (level, score) in enumerate(zip(now.levels, now.scores, strict=True)):
        if not score > high or level == 0 or now.is_taken(at):
            continue
        node = level, now.starts[at] // now.width[level]
        shut = memory.disarmed(*node) or memory.cooling(_EXPAND, *node) or node in now.forced
        if not shut:
            expands.append((score, at, node))
    expands.sort(key=lambda request: (-request[0], -request[1]))
    expands = expands[: n_diff + MAX_REJECTED]
    is_open = (
        group
        for group in now.groups()
        if group not in now.taken
        and not memory.protected(group.level, group.number)
        and not memory.newest(group.level, group.number)
        and not memory.cooling(_COLLAPSE, group.level, group.number)
    )
    collapsible = _Lazy(islice(is_open, 2 * n_diff + MAX_REJECTED))
    requests: list[tuple[float, int, tuple[int, int], _Group | None]] = [
        (score, at, node, None) for score, at, node in expands
    ]
    dull = takewhile(lambda group: group.score < low, collapsible)
    requests += [(-g.score, g.at, (g.level, g.number), g) for g in dull]
    requests.sort(key=lambda request: -request[0])  # stable: expansions win ties

    # The walk.
    free_slots = max(0, (free - now.size) // (now.size - 1))
    greedy = _Greedy(collapsible, free_slots, max(tau_expand, tau_collapse))
    for strength, at, node, group in requests:
        left = n_diff - len(greedy.chosen)
        if left < 1:
            break
        if group is not None:
            if greedy.intact(group):
                greedy.collapse(group, _SCORE)
        elif any(g.at <= at < g.at + g.members for g in greedy.gone):
            continue
        elif greedy.free_slots > 0:
            greedy.expand(node, at, _SCORE)
        else:
            greedy.swap(node, at, strength, left)
    return greedy.chosen
