"""Legal tilings of a span under a budget, as batched index tensors for training.

A tiling is a frontier over [start, stop): raw blocks and whole gists inside the span, oldest
first. Budgets count window entries (K a raw block, 1 a gist), without a tail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from megacontext.core.focus.actions import I8, I64
from megacontext.core.focus.packing import coarsest_levels
from megacontext.core.rng import generator
from megacontext.traces.errors import BudgetError, PlanError

__all__ = ["Span", "TilingBatch", "all_tilings", "batch_tilings", "sample_tilings"]

_PAD = -1


@dataclass(frozen=True, slots=True)
class Span:
    """What is to be tiled: tokens [start, stop), both multiples of ``block_size``.

    Args:
        budget: most window entries of a tiling.
        protected_blocks: newest blocks that stay raw in every tiling.

    Raises:
        PlanError: the span is not aligned to blocks.
        BudgetError: not even the coarsest tiling fits.
    """

    start: int
    stop: int
    block_size: int
    max_levels: int
    budget: int
    protected_blocks: int = 0

    def __post_init__(self) -> None:
        size = self.block_size
        if not 0 <= self.start <= self.stop or self.start % size or self.stop % size:
            raise PlanError(
                f"span: [{self.start}, {self.stop}) must lie on multiples of block_size {size}."
            )
        least = self.cost(self.coarsest())
        if least > self.budget:
            raise BudgetError(
                f"budget: {self.budget} entries cannot hold [{self.start}, {self.stop}); "
                f"give at least {least}."
            )

    def coarsest(self) -> I8:
        """Levels of the tiling with the fewest entries."""
        first, last = self.start // self.block_size, self.stop // self.block_size
        raw = min(self.protected_blocks, last - first)
        old = coarsest_levels(first, last - raw, self.block_size, self.max_levels)
        return np.concatenate([old, np.zeros(raw, np.int8)])

    def cost(self, levels: I8) -> int:
        """Window entries of a tiling."""
        raw = int(np.count_nonzero(levels == 0))
        return raw * self.block_size + len(levels) - raw


@dataclass(frozen=True, slots=True)
class TilingBatch:
    """B tilings of one span, padded with -1 on the right.

    Attributes:
        levels, index, starts: I8/I64/I64[B, n], frontier nodes; ``nodes`` I64[B] are real.
        entry_node: I64[B, e], frontier position of each window entry; ``entries`` I64[B] real.
        entry_start, entry_stop: I64[B, e], its token span.
        token_entry: I64[B, stop - start], window entry that covers each token of the span.
    """

    levels: I8
    index: I64
    starts: I64
    nodes: I64
    entry_node: I64
    entry_start: I64
    entry_stop: I64
    entries: I64
    token_entry: I64


def all_tilings(span: Span) -> Iterator[I8]:
    """The levels of every legal tiling within the budget; their number is exponential."""
    coarsest = span.coarsest()
    least = [1 if level else span.block_size for level in coarsest.tolist()]
    raw_from = len(coarsest) - min(
        span.protected_blocks, (span.stop - span.start) // span.block_size
    )

    def rest(at: int, left: int, done: list[int]) -> Iterator[I8]:
        if at == len(coarsest):
            yield np.array(done, np.int8)
            return
        later = sum(least[at + 1 :])
        if at >= raw_from:
            yield from rest(at + 1, left - span.block_size, [*done, 0])
            return
        for part, cost in _refinements(int(coarsest[at]), span.block_size, left - later):
            yield from rest(at + 1, left - cost, done + part)

    yield from rest(0, span.budget, [])


def _refinements(level: int, block_size: int, budget: int) -> Iterator[tuple[list[int], int]]:
    """Every tiling of one node with its cost, coarsest first."""
    if budget < 1:
        return
    yield [level], 1
    if level == 1:
        if budget >= block_size:
            yield [0], block_size
        return

    def children(count: int, left: int) -> Iterator[tuple[list[int], int]]:
        if count == 0:
            yield [], 0
            return
        for part, cost in _refinements(level - 1, block_size, left - (count - 1)):
            for later, later_cost in children(count - 1, left - cost):
                yield part + later, cost + later_cost

    yield from children(block_size, budget)


def sample_tilings(span: Span, count: int, seed: int, draw: int = 0) -> TilingBatch:
    """``count`` random tilings; every legal tiling has a chance.

    Each starts from the coarsest tiling and expands uniformly chosen gists until a budget drawn
    between the least and the given one is used, so coarse and fine tilings are both common.

    Args:
        draw: number of the batch; another batch from the same seed needs another number.
    """
    random = generator(seed, "tilings", draw)
    return batch_tilings(span, [_random_tiling(span, random) for _ in range(count)])


def _random_tiling(span: Span, random: np.random.Generator) -> I8:
    levels: list[int] = span.coarsest().tolist()
    step = span.block_size - 1
    remaining = int(random.integers(0, span.budget - span.cost(span.coarsest()) + 1))
    for _ in range(remaining // step):
        gists = [at for at, level in enumerate(levels) if level]
        if not gists:
            break
        at = gists[int(random.integers(len(gists)))]
        level = levels[at]
        levels[at : at + 1] = [level - 1] * (span.block_size if level > 1 else 1)
    return np.array(levels, np.int8)


def batch_tilings(span: Span, tilings: Iterable[I8]) -> TilingBatch:
    """Index tensors for given tilings of ``span``.

    Raises:
        PlanError: a tiling does not cover the span with aligned nodes within the budget.
    """
    rows = [_row(span, np.asarray(levels, np.int8)) for levels in tilings]
    nodes = np.array([len(row[0]) for row in rows], np.int64)
    entries = np.array([len(row[3]) for row in rows], np.int64)
    columns = [_padded([row[at] for row in rows]) for at in range(6)]
    levels, index, starts, entry_node, entry_start, entry_stop = columns
    token_entry = _padded([row[6] for row in rows])  # equally long: nothing is padded
    return TilingBatch(
        levels.astype(np.int8),
        index,
        starts,
        nodes,
        entry_node,
        entry_start,
        entry_stop,
        entries,
        token_entry,
    )


def _row(span: Span, levels: I8) -> tuple[I64 | I8, ...]:
    size = np.int64(span.block_size)
    width = size ** np.maximum(levels, 1).astype(np.int64)
    ends = span.start + np.cumsum(width)
    starts = ends - width
    end = int(ends[-1]) if len(levels) else span.start
    bad = bool((starts % width).any()) or bool(((levels < 0) | (levels > span.max_levels)).any())
    if bad or end != span.stop or span.cost(levels) > span.budget:
        raise PlanError(
            f"tiling: levels {levels.tolist()} are no legal tiling of "
            f"[{span.start}, {span.stop}) within {span.budget} entries."
        )
    counts = np.where(levels == 0, size, 1)
    node = np.repeat(np.arange(len(levels)), counts)
    offset = np.arange(len(node)) - np.repeat(counts.cumsum() - counts, counts)
    raw = levels[node] == 0
    entry_start = starts[node] + np.where(raw, offset, 0)
    entry_stop = entry_start + np.where(raw, 1, width[node])
    token_entry = np.repeat(np.arange(len(node)), entry_stop - entry_start)
    return levels, starts // width, starts, node, entry_start, entry_stop, token_entry


def _padded(rows: list[I64 | I8]) -> I64:
    max_length = max((len(row) for row in rows), default=0)
    padded = np.full((len(rows), max_length), _PAD, np.int64)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = row
    return padded
