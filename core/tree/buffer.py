"""Rows: the append-only array under every level, in memory here and on disk in ``ctxfile.py``."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mark", "RamRows", "Rows"]

Mark = tuple[int, int, int]
"""A place to roll back to: (count, CRC since the last commit, CRC since the beginning)."""

_FIRST_ROWS = 64


class Rows(Protocol):
    """Rows of one shape and dtype that are appended, committed and never changed."""

    count: int

    @property
    def committed(self) -> int:
        """Rows that survive a crash."""
        ...

    def append(self, rows: NDArray[Any]) -> None:
        """Add C-contiguous ``rows`` of the stored dtype; on an error nothing was added."""
        ...

    def view(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop), read-only, not copied; valid for as long as it is held."""
        ...

    def mark(self) -> Mark: ...

    def rollback(self, mark: Mark) -> None:
        """Forget the uncommitted rows appended since ``mark``; touches no disk."""
        ...

    def commit(self) -> None: ...

    def close(self) -> None: ...


class RamRows:
    """Rows in one array that doubles; a view keeps the array it was cut from alive."""

    def __init__(self, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.count = 0
        self._committed = 0
        self._rows = np.empty((_FIRST_ROWS, *row_shape), dtype)
        self._frozen = self._freeze()

    @property
    def committed(self) -> int:
        return self._committed

    def append(self, rows: NDArray[Any]) -> None:
        end = self.count + len(rows)
        if end > len(self._rows):
            grown = np.empty((max(end, 2 * len(self._rows)), *self._rows.shape[1:]), rows.dtype)
            grown[: self.count] = self._rows[: self.count]
            self._rows = grown
            self._frozen = self._freeze()
        self._rows[self.count : end] = rows
        self.count = end

    def view(self, start: int, stop: int) -> NDArray[Any]:
        return self._frozen[start:stop]

    def mark(self) -> Mark:
        return self.count, 0, 0

    def rollback(self, mark: Mark) -> None:
        self.count = mark[0]

    def commit(self) -> None:
        self._committed = self.count

    def close(self) -> None:
        """Memory goes when the last view does."""

    def _freeze(self) -> NDArray[Any]:
        frozen = self._rows.view()
        frozen.flags.writeable = False
        return frozen
