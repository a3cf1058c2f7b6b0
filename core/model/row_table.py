"""The window's rows as arrays of fixed capacity: appending a token costs no copy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megacontext.core.model.layout import Rows

__all__ = ["RowTable"]


class RowTable:
    """Rows in window order with their slots and positions.

    Slots are handed out lowest first, so the live ones stay together at the front of the storage.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._columns = np.zeros((5, capacity), dtype=np.int64)
        self._count = 0
        self._free = np.arange(capacity, dtype=np.int64)

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> Rows:
        """Keys and spans (views)."""
        keys, starts, widths = self._columns[:3, : self._count]
        return Rows(keys, starts, widths)

    @property
    def slots(self) -> NDArray[np.int64]:
        """Slot of every row, I64[r] (a view)."""
        return self._columns[3, : self._count]

    @property
    def positions(self) -> NDArray[np.int64]:
        """Position of every row, I64[r] (a view)."""
        return self._columns[4, : self._count]

    def slot_ahead(self, rows: int) -> int:
        """The slot of the row that comes ``rows`` rows after the next one."""
        return int(self._free[rows])

    def append(self, first_token: int, first_position: int, count: int) -> NDArray[np.int64]:
        """Add ``count`` raw tokens at the end; returns their row numbers."""
        added = np.arange(self._count, self._count + count)
        assert self._count + count <= self._capacity
        target = self._columns[:, self._count : self._count + count]
        offset = np.arange(count)
        target[:2] = first_token + offset
        target[2] = 1
        target[3] = self._free[:count]
        target[4] = first_position + offset
        self._free = self._free[count:]
        self._count += count
        return added

    def first_change(self, rows: Rows, positions: NDArray[np.int64]) -> int:
        """Index of the first row that differs in key or position; the shorter length if none."""
        n = min(len(self), len(rows))
        same = (self.rows.keys[:n] == rows.keys[:n]) & (self.positions[:n] == positions[:n])
        return n if same.all() else int(np.argmin(same))

    def replace(
        self, rows: Rows, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Go over to other rows; kept rows keep their slots.

        Returns:
            ``kept`` and ``shifted`` bool[r]: rows that were here before, and those of them whose
            position changed.
        """
        old, new_count = self.rows, len(rows)
        kept = np.zeros(new_count, dtype=np.bool_)
        shifted = kept.copy()
        slots = np.empty(new_count, dtype=np.int64)
        free = self._free
        if len(old):
            # Starts increase strictly in both, so a kept row is found by its start.
            at = np.minimum(np.searchsorted(old.starts, rows.starts), len(old) - 1)
            kept = old.keys[at] == rows.keys
            leaving = np.ones(len(old), dtype=np.bool_)
            leaving[at[kept]] = False
            free = np.sort(np.concatenate([free, self.slots[leaving]]))
            slots[kept] = self.slots[at[kept]]
            shifted = kept & (self.positions[at] != positions)
        inserted = new_count - int(kept.sum())
        slots[~kept] = free[:inserted]
        self._free = free[inserted:]
        self._count = new_count
        self._columns[:, :new_count] = rows.keys, rows.starts, rows.widths, slots, positions
        return kept, shifted
