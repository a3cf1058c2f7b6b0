"""The best legal frontier for one moment: an upper bound on what any policy can show then.

Every expansion costs K - 1 entries, so a frontier is a set of expanded gists that is closed
upwards, and its cost is their number. Only gists above wanted (or protected) blocks can be worth
expanding; a knapsack over that small trie finds the best set exactly (the tree knapsack of
Johnson and Niemi, "On knapsacks, partitions, and a new dynamic programming technique for trees",
Math. of OR 1983).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.simulator.oracle.utility import detail
from megacontext.simulator.streams.base import Truth

__all__ = ["Bounds", "best_utility", "coarsest", "expansions"]

_NEVER = -1e9


@dataclass(frozen=True)
class Bounds:
    """What a frontier must respect. ``w_max`` in entries; headroom of one block is kept."""

    block_size: int
    max_levels: int
    w_max: int
    protected_blocks: int


def coarsest(n_blocks: int, bounds: Bounds) -> list[tuple[int, int]]:
    """The coarsest tiling of ``n_blocks`` blocks, oldest first: every frontier refines it."""
    roots, covered = [], 0
    for level in range(bounds.max_levels, 0, -1):
        width = bounds.block_size ** (level - 1)
        stop = n_blocks // width
        roots += [(level, index) for index in range(covered // width, stop)]
        covered = max(covered, stop * width)
    return roots


def expansions(n_tokens: int, n_roots: int, bounds: Bounds) -> int:
    """How many expansions the budget pays for, with headroom for the next block."""
    tail = n_tokens % bounds.block_size
    free = bounds.w_max - bounds.block_size - tail - n_roots
    return free // (bounds.block_size - 1)


def best_utility(n_tokens: int, truth: Truth, bounds: Bounds) -> float:
    """The free-switching optimum: the largest utility of any legal frontier at this moment.

    Protected blocks are taken to be raw, as they always are.
    """
    size = bounds.block_size
    n_blocks = n_tokens // size
    roots = coarsest(n_blocks, bounds)
    budget = expansions(n_tokens, len(roots), bounds)
    protected = range(max(0, n_blocks - bounds.protected_blocks), n_blocks)
    weights = dict(zip(truth.blocks.tolist(), truth.weights.tolist(), strict=True))
    interesting = sorted(weights.keys() | set(protected))
    total = np.zeros(1)
    for level, index in roots:
        width = size ** (level - 1)
        inside = [b for b in interesting if index * width <= b < (index + 1) * width]
        if inside:
            table = _table(level, inside, weights, set(protected), size)
            total = _join(total, table)[: budget + 1]
    return float(total[: budget + 1].max())


def _table(
    level: int, blocks: list[int], weights: dict[int, float], protected: set[int], size: int
) -> np.ndarray:
    """F64[e]: best utility of ``blocks`` under one node of ``level``, by expansions spent."""
    whole = sum(weights.get(block, 0.0) for block in blocks)
    closed = _NEVER if protected.intersection(blocks) else whole * detail(level)
    if level == 1:
        return np.array([closed, whole])
    width = size ** (level - 2)
    groups: dict[int, list[int]] = {}
    for block in blocks:
        groups.setdefault(block // width, []).append(block)
    opened = np.zeros(1)
    for group in groups.values():
        opened = _join(opened, _table(level - 1, group, weights, protected, size))
    return np.concatenate(([closed], opened))


def _join(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Max-plus convolution: the best split of a budget over two subtrees."""
    out = np.full(left.size + right.size - 1, _NEVER)
    for spent, value in enumerate(left.tolist()):
        window = out[spent : spent + right.size]
        np.maximum(window, right + value, out=window)
    return out
