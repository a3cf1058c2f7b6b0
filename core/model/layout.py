"""Rows of a working context: what each row of the window stands for, as arrays.

A *row* is one entry of the window: a raw token or a gist. Its *key* names it for good, whatever
block or tail it stands in: ``token position`` for a raw token, ``level << 56 | index`` for a gist.
A tail that becomes a raw block therefore keeps its keys, and so its rows in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layout", "Rows", "layout_rows", "token_rows"]

_LEVEL_SHIFT = 56
_VALUE_MASK = (1 << _LEVEL_SHIFT) - 1


@dataclass(frozen=True)
class Layout:
    """A working context: its frontier, then the raw tail ``[tail_start, n_tokens)``.

    ``levels`` I8[n] and ``index`` I64[n] name the frontier entries in window order; level 0 is a
    raw block of ``block_size`` tokens.
    """

    levels: NDArray[np.int8]
    index: NDArray[np.int64]
    tail_start: int
    n_tokens: int
    block_size: int

    def entry_costs(self, gist_rows: int = 1) -> NDArray[np.int64]:
        """Rows of each frontier entry, I64[n]; a gist has ``gist_rows``."""
        raw = np.asarray(self.levels) == 0
        return np.where(raw, self.block_size, gist_rows).astype(np.int64)


@dataclass(frozen=True)
class Rows:
    """Rows in window order: ``keys`` I64[r] and the token span ``[starts, starts + widths)``."""

    keys: NDArray[np.int64]
    starts: NDArray[np.int64]
    widths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def levels(self) -> NDArray[np.int64]:
        """0 for raw tokens, else the gist's level."""
        return self.keys >> _LEVEL_SHIFT

    @property
    def values(self) -> NDArray[np.int64]:
        """Token position of a raw token, node index of a gist."""
        return self.keys & _VALUE_MASK

    def joined(self, other: Rows) -> Rows:
        """These rows followed by ``other``."""
        return Rows(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.starts, other.starts]),
            np.concatenate([self.widths, other.widths]),
        )


def token_rows(start: int, stop: int) -> Rows:
    """Rows of the raw tokens ``[start, stop)``."""
    tokens = np.arange(start, stop, dtype=np.int64)
    return Rows(tokens, tokens, np.ones_like(tokens))


def layout_rows(layout: Layout, hide_gists: bool = False) -> Rows:
    """All rows of ``layout`` in window order, tail included; gists have none if hidden."""
    levels = np.asarray(layout.levels, dtype=np.int64)
    index = np.asarray(layout.index, dtype=np.int64)
    costs = layout.entry_costs(0 if hide_gists else 1)
    entry = np.repeat(np.arange(len(levels)), costs)
    offset = np.arange(len(entry)) - np.repeat(np.cumsum(costs) - costs, costs)
    level, node = levels[entry], index[entry]
    raw = level == 0
    widths = np.where(raw, 1, layout.block_size**level)
    starts = np.where(raw, node * layout.block_size + offset, node * widths)
    keys = np.where(raw, starts, (level << _LEVEL_SHIFT) | node)
    return Rows(keys, starts, widths).joined(token_rows(layout.tail_start, layout.n_tokens))
