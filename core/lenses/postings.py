"""An inverted index from token ids to blocks that grows with an append-only history."""

from __future__ import annotations

import numpy as np

from megacontext.core.focus.actions import I64
from megacontext.core.lenses.base import U32

__all__ = ["Postings"]


class Postings:
    """Sorted runs of (token, block, count), merged as they grow (log-structured).

    A posting is moved O(log n) times over its life; a look-up searches O(log n) runs.
    """

    def __init__(self) -> None:
        self.blocks = 0
        self._runs: list[tuple[I64, I64]] = []  # keys token << 32 | block, ascending; counts

    def add(self, tokens_BK: U32) -> None:
        """Index the next blocks."""
        fresh = np.arange(self.blocks, self.blocks + len(tokens_BK))
        keys = (tokens_BK.astype(np.int64) << 32) | fresh[:, None]
        self._runs.append(np.unique(keys.ravel(), return_counts=True))
        self.blocks += len(tokens_BK)
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            (keys_b, counts_b), (keys_a, counts_a) = self._runs.pop(), self._runs.pop()
            keys = np.concatenate([keys_a, keys_b])
            order = np.argsort(keys, kind="stable")
            self._runs.append((keys[order], np.concatenate([counts_a, counts_b])[order]))

    def find(self, tokens: I64) -> tuple[I64, I64, I64]:
        """Postings of distinct ``tokens``: which token (its place), block, count; parallel."""
        parts: list[tuple[I64, I64, I64]] = []
        for keys, counts in self._runs:
            low = np.searchsorted(keys, tokens << 32)
            many = np.searchsorted(keys, (tokens + 1) << 32) - low
            token = np.repeat(np.arange(len(tokens)), many)
            offset = np.arange(len(token)) - np.repeat(many.cumsum() - many, many)
            at = np.repeat(low, many) + offset
            parts.append((token, keys[at] & 0xFFFFFFFF, counts[at]))
        if not parts:
            empty = np.empty(0, np.int64)
            return empty, empty, empty
        token, block, count = (np.concatenate(column) for column in zip(*parts, strict=True))
        return token, block, count
