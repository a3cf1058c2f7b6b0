"""How often each token stands in which block of a run: what BM25 needs, read in slices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from megacontext.traces.reader import TraceReader
from megacontext.traces.row import list_values

__all__ = ["TokenIndex"]

GROUP = 64
"""Batches read at a time."""
_SHIFT = 32


_FAR = 1 << 24
"""Tokens between the ends of two rows of one batch, at most."""
_MOST = 1 << 31
"""Tokens of a history, at most; a number beyond is a flipped bit."""


class TokenIndex:
    """Token ids by position and, per id, the blocks that hold it."""

    def __init__(self, reader: TraceReader) -> None:
        self._reader, self._block_size = reader, reader.meta.block_size
        self._batches = 0
        self._tokens = np.full(0, -1, np.int64)
        self._pairs: np.ndarray | None = None

    @property
    def complete(self) -> bool:
        """Whether all rows that the reader knows were read."""
        return self._batches >= self._reader.num_batches

    def advance(self, enough: Callable[[], bool]) -> bool:
        """Read until ``enough()``, at least one group; True when all are read."""
        while not self.complete:
            stop = min(self._batches + GROUP, self._reader.num_batches)
            names = ("history_tokens", "new_tokens")
            for _, table in self._reader.tables(names, self._batches, stop):
                for batch in table.to_batches() if table is not None else ():
                    flat, offsets = list_values(batch.column("new_tokens"), "new_tokens")
                    ends = batch.column("history_tokens").to_numpy().astype(np.int64)
                    self._put(flat, offsets.astype(np.int64), ends)
            self._batches, self._pairs = stop, None
            if enough():
                break
        return self.complete

    def _put(self, flat: np.ndarray, offsets: np.ndarray, ends: np.ndarray) -> None:
        # A row whose place is damaged is left out: those of one batch lie close together.
        counts = np.diff(offsets)
        near = np.abs(ends - int(np.median(ends))) <= _FAR if len(ends) else np.ones(0, bool)
        near &= ends >= counts
        last = int(ends[near].max()) if near.any() else 0
        if last > _MOST:
            return
        if last > len(self._tokens):
            extended = np.full(max(last, 2 * len(self._tokens)), -1, np.int64)
            extended[: len(self._tokens)] = self._tokens
            self._tokens = extended
        within = np.arange(counts.sum()) - np.repeat(offsets[:-1] - offsets[0], counts)
        positions = np.repeat(ends - counts, counts) + within
        is_near = np.repeat(near, counts)
        self._tokens[positions[is_near]] = flat[offsets[0] : offsets[-1]][is_near]

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """I64[stop - start]: ids at positions [start, stop), -1 where none was recorded."""
        known: np.ndarray = self._tokens[max(start, 0) : max(stop, 0)]
        return known

    def holding(self, tokens: np.ndarray, blocks: int) -> np.ndarray:
        """I64[t]: how many of the first ``blocks`` blocks hold each of ``tokens``."""
        if self._pairs is None:  # (id, block) pairs, sorted
            positions = np.flatnonzero(self._tokens >= 0)
            keys = (self._tokens[positions] << _SHIFT) + positions // self._block_size
            self._pairs = np.unique(keys)
        low = tokens.astype(np.int64) << _SHIFT
        count: np.ndarray = np.searchsorted(self._pairs, low + blocks) - np.searchsorted(
            self._pairs, low
        )
        return count
