"""The whole run at a glance: scalar columns and heat as numpy arrays, without the scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from megacontext.traces.row import NEUTRAL_HEAT
from megacontext.traces.schema import HEAT_BINS

__all__ = ["OVERVIEW_COLUMNS", "Overview", "OverviewBuilder"]

_DTYPES: dict[str, str] = {
    "step": "u4",
    "round": "u1",
    "t_ns": "i8",
    "phase": "i1",
    "history_tokens": "i8",
    "tail_tokens": "u2",
    "budget_used": "u4",
    "w_max": "u4",
    "kv_rows": "u4",
    "kv_mode": "i1",
    "kv_drift": "f4",
    "delta_nll": "f4",
    "us_gist": "f4",
    "us_lens": "f4",
    "us_alloc": "f4",
    "us_kv": "f4",
    "us_decode": "f4",
    "us_record": "f4",
    "scores_dropped": "u4",
    "trigger": "i1",
}
OVERVIEW_COLUMNS = (*_DTYPES, "heat", "marker", "knobs")
_NULLABLE = ("kv_drift", "delta_nll")
_MONOTONE = ("step", "t_ns", "history_tokens", "w_max", "scores_dropped")
_ALWAYS = ("step", "history_tokens")
_LEAP = 1 << 20
"""Tokens that one row may bring without its CRC being compared."""


@dataclass(frozen=True, slots=True)
class Overview:
    """Columns of n rows; arrays are read-only snapshots that later growth does not touch.

    ``kv_drift`` and ``delta_nll`` are NaN where the row has none. ``history_tokens`` never falls,
    so ``np.searchsorted(history_tokens, token, side="right")`` is the row that brought a token.
    In rows that could not be decoded ``damaged`` is True and the counters repeat the row before; so
    does ``history_tokens`` where it falls or leaps and the row's CRC does not match.
    Columns that the reader was not opened for have no rows at all.
    """

    step: np.ndarray
    round: np.ndarray
    t_ns: np.ndarray
    phase: np.ndarray
    history_tokens: np.ndarray
    tail_tokens: np.ndarray
    budget_used: np.ndarray
    w_max: np.ndarray
    kv_rows: np.ndarray
    kv_mode: np.ndarray
    kv_drift: np.ndarray
    delta_nll: np.ndarray
    us_gist: np.ndarray
    us_lens: np.ndarray
    us_alloc: np.ndarray
    us_kv: np.ndarray
    us_decode: np.ndarray
    us_record: np.ndarray
    scores_dropped: np.ndarray
    trigger: np.ndarray
    heat: np.ndarray  # U8[n, 256]
    damaged: np.ndarray  # bool[n]
    markers: dict[int, str]  # by row
    knobs: dict[int, str]  # by row: JSON of the changes in force from that row on

    @property
    def num_rows(self) -> int:
        return len(self.step)


def _empty() -> dict[str, np.ndarray]:
    """The columns without rows."""
    columns = {name: np.empty(0, dtype) for name, dtype in _DTYPES.items()}
    return columns | {"heat": np.empty((0, HEAT_BINS), np.uint8), "damaged": np.empty(0, bool)}


class OverviewBuilder:
    """Grows an :class:`Overview` of the columns ``names``; appending is amortized O(1) per row.

    Args:
        is_sound: whether the CRC of row number i matches; asked for suspicious rows alone.
    """

    def __init__(
        self,
        names: Sequence[str] = OVERVIEW_COLUMNS,
        is_sound: Callable[[int], bool] = lambda row: True,
    ) -> None:
        self._is_sound = is_sound
        self.names = tuple(name for name in OVERVIEW_COLUMNS if name in {*_ALWAYS, *names})
        self._count = 0
        self._columns = {name: column for name, column in _empty().items() if name in self.names}
        self._columns["damaged"] = np.empty(0, bool)
        self._texts: dict[str, dict[int, str]] = {"marker": {}, "knobs": {}}

    @property
    def num_rows(self) -> int:
        return self._count

    def extend(self, table: pa.Table) -> None:
        """Append the rows of ``table``, which has the columns ``names``."""
        start = self._grow(table.num_rows)
        for name in set(_DTYPES).intersection(table.schema.names):
            self._columns[name][start : self._count] = table.column(name).to_numpy()
        if "heat" in self._columns:
            heat = table.column("heat").combine_chunks().flatten().to_numpy()
            self._columns["heat"][start : self._count] = heat.reshape(-1, HEAT_BINS)
        for name, texts in self._texts.items():
            if name not in table.schema.names:
                continue
            column = table.column(name)
            if column.null_count < len(column):
                valid = np.flatnonzero(column.is_valid().to_numpy())
                texts.update({start + int(j): column[int(j)].as_py() for j in valid})

    def extend_damaged(self, rows: int) -> None:
        """Append ``rows`` rows of a batch that cannot be decoded."""
        start = self._grow(rows)
        for name in _MONOTONE:
            if name in self._columns:
                column = self._columns[name]
                column[start : self._count] = column[start - 1] if start else 0
        if "heat" in self._columns:
            self._columns["heat"][start : self._count] = NEUTRAL_HEAT
        self._columns["damaged"][start : self._count] = True

    def repair_history(self, start: int) -> None:
        """Let damaged rows from ``start`` on, and the one before, repeat the row before them.

        A flipped bit of a token count would have readers ask for more tokens than any file holds.
        """
        compared: set[int] = set()
        while True:
            history = self._columns["history_tokens"][: self._count]
            first = max(start - 1, 0)
            brought = np.diff(history[first:], prepend=history[first - 1] if first else 0)
            odd = first + np.flatnonzero((brought < 0) | (brought > _LEAP))

            # Where the count falls, it may be the row before that is too high.
            rows = {int(row) for row in (*odd, *(odd - 1)) if row >= first} - compared
            damaged = sorted(row for row in rows if not self._is_sound(row))
            if not damaged:
                return
            compared |= rows
            repaired = self._columns["history_tokens"].copy()  # snapshots keep what they showed
            for row in damaged:
                repaired[row] = repaired[row - 1] if row else 0
            self._columns["history_tokens"] = repaired

    def overview(self) -> Overview:
        """The rows so far."""
        views = {name: column[: self._count] for name, column in self._columns.items()}
        for view in views.values():
            view.flags.writeable = False
        markers, knobs = dict(self._texts["marker"]), dict(self._texts["knobs"])
        return Overview(**(_empty() | views), markers=markers, knobs=knobs)

    def _grow(self, rows: int) -> int:
        start = self._count
        self._count += rows
        capacity = len(self._columns["damaged"])
        if self._count > capacity:
            capacity = max(self._count, 2 * capacity, 1024)
            for name, column in self._columns.items():
                empty = np.nan if name in _NULLABLE else 0
                larger = np.full((capacity, *column.shape[1:]), empty, column.dtype)
                larger[:start] = column[:start]
                self._columns[name] = larger
        return start
