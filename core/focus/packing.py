"""How many entries a run of blocks needs at least, and how to spend a budget on it.

All positions are block numbers; a level-L node covers K**(L-1) blocks. Runs are half-open.
"""

from __future__ import annotations

import numpy as np

from megacontext.core.focus.actions import I8, I64

__all__ = ["coarsest_levels", "fewest_nodes", "fill_levels", "reach"]


def fewest_nodes(first: I64 | int, last: I64, block_size: int, max_levels: int) -> I64:
    """Size of the coarsest tiling of [first, last) by whole gists, for many runs at once.

    Args:
        first: I64[m] or one number, last: I64[m], first <= last.
    """
    low, high = np.broadcast_arrays(np.asarray(first, np.int64), last)
    count = np.zeros(last.shape, np.int64)
    for _ in range(1, max_levels):
        next_low, next_high = -(-low // block_size), high // block_size
        inner = next_low < next_high
        count += np.where(
            inner, next_low * block_size - low + high - next_high * block_size, high - low
        )
        low, high = np.where(inner, next_low, 0), np.where(inner, next_high, 0)
    total: I64 = count + (high - low)
    return total


def coarsest_levels(first: int, last: int, block_size: int, max_levels: int) -> I8:
    """Levels, oldest first, of the coarsest tiling of [first, last) by whole gists."""
    left: list[I8] = []
    right: list[I8] = []
    low, high, level = first, last, 1
    while level < max_levels:
        next_low, next_high = -(-low // block_size), high // block_size
        if next_low >= next_high:
            break
        left.append(np.full(next_low * block_size - low, level, np.int8))
        right.append(np.full(high - next_high * block_size, level, np.int8))
        low, high, level = next_low, next_high, level + 1
    return np.concatenate([*left, np.full(high - low, level, np.int8), *reversed(right)])


def _first_of_span(first: int, nodes: int, block_size: int, levels_left: int) -> int:
    """Smallest run length from ``first`` whose coarsest tiling has ``nodes`` nodes.

    The size of the coarsest tiling grows by at most one a block, so every smaller run needs fewer.
    """
    up = -first % block_size
    if levels_left == 1 or nodes <= up:
        return nodes
    next_low = max(0, nodes - up - (block_size - 1))
    inner = _first_of_span((first + up) // block_size, next_low, block_size, levels_left - 1)
    return up + block_size * inner + nodes - up - next_low


def reach(first: int, entries: int, protected: int, block_size: int, max_levels: int) -> int:
    """Largest T such that every t <= T tokens from block ``first`` on fit into ``entries``.

    The newest ``protected`` closed blocks stay raw, older ones are as coarse as whole nodes
    inside the run allow, an unfinished block is raw. Negative ``entries`` reach nothing.
    """
    # A count of closed blocks is harmless while any tail (up to K - 1 tokens) fits beside it.
    remaining = entries - (block_size - 1)
    if remaining < 0:
        return max(entries, 0)
    if (remaining // block_size + 1) <= protected:
        closed = (remaining // block_size + 1) * block_size
        return max(entries, closed - 1)
    nodes = remaining - protected * block_size + 1
    blocks = protected + _first_of_span(first, nodes, block_size, max_levels)
    return blocks * block_size + block_size - 2


def fill_levels(
    first: int, last: int, entries: int, protected: int, block_size: int, max_levels: int
) -> I8 | None:
    """Levels for blocks [first, last): newest raw, then LOD1, the rest as coarse as can be.

    As many blocks as possible are raw, then as many as possible LOD1; the newest ``protected``
    are raw in any case. Returns None where even the coarsest choice exceeds ``entries``.
    """
    blocks = last - first
    if blocks * block_size <= entries:
        return np.zeros(blocks, np.int8)
    raw_nodes = np.arange(min(protected, blocks), min(blocks, max(entries, 0) // block_size) + 1)
    cost = raw_nodes * block_size + fewest_nodes(first, last - raw_nodes, block_size, max_levels)
    rows = np.flatnonzero(cost <= entries)
    if rows.size == 0:
        return None
    raw = int(raw_nodes[rows[-1]])
    rest = entries - raw * block_size
    coarse_cost = np.arange(min(blocks - raw, rest) + 1)
    cost = coarse_cost + fewest_nodes(first, last - raw - coarse_cost, block_size, max_levels)
    one = int(coarse_cost[np.flatnonzero(cost <= rest)[-1]])
    coarse = coarsest_levels(first, last - raw - one, block_size, max_levels)
    return np.concatenate([coarse, np.ones(one, np.int8), np.zeros(raw, np.int8)])
