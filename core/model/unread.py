"""Which rows of a spliced window were read without raw text that stands before them now.

``splice`` leaves rows as they are when something is inserted before them. Where gists stand for
their blocks well that changes little, with two exceptions, and both lose facts:

* raw text right behind an opened block: a sentence goes on there whose beginning it never saw;
* a block opened before another to its left: what it says may build on that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megacontext.core.model.layout import Rows

__all__ = ["UnreadRows"]

# Tokens behind an opened block that may continue what it says.
_BEHIND = 64


class UnreadRows:
    """Marks by slot; a slot keeps its mark until its row is computed again or leaves."""

    def __init__(self, slots: int) -> None:
        self._unread, self._opened = np.zeros((2, slots), dtype=np.bool_)

    def copy(self) -> UnreadRows:
        """The same marks, to go back to."""
        other = UnreadRows(len(self._unread))
        other._unread[:], other._opened[:] = self._unread, self._opened
        return other

    def among(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows in ``slots`` I64[r] are marked, bool[r]."""
        return self._unread[slots]

    def read(self, slots: NDArray[np.int64]) -> None:
        """Rows that were computed."""
        self._unread[slots] = False

    def appended(self, slots: NDArray[np.int64]) -> None:
        """Rows that are new at the window's end."""
        self._unread[slots] = self._opened[slots] = False

    def inserted(self, rows: Rows, slots: NDArray[np.int64], kept: NDArray[np.bool_]) -> None:
        """Mark what stands behind new raw rows.

        Args:
            rows: all of the window, in window order; ``slots`` I64[r] theirs.
            kept: bool[r], rows that were there before.
        """
        raw, at = rows.levels == 0, np.arange(len(rows))
        self.appended(slots[~kept])
        fresh = np.flatnonzero(raw & ~kept)
        if not kept.any() or not len(fresh):
            return  # a window built at once is read in order
        behind_any = slots[fresh[0] :]
        self._unread[behind_any] |= self._opened[behind_any]
        self._opened[slots[fresh]] = True
        closest = np.maximum.accumulate(np.where(raw & ~kept, at, -_BEHIND - 1))
        goes_on = np.append(False, raw[1:] & raw[:-1] & (np.diff(rows.values) == 1))
        run = np.maximum.accumulate(np.where(goes_on, 0, at))
        right_behind = raw & kept & (closest >= run) & (at - closest <= _BEHIND)
        self._unread[slots[right_behind]] = True
