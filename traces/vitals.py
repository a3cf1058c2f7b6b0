"""What each row of a run was like, and everything that was done or turned down in it.

Needs more than the overview's scalars (token NLLs, frontier sizes, actions, refusals), so it is
read in slices: whoever draws calls :meth:`VitalsScan.advance` as often as there is time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from megacontext.traces.reader import TraceReader
from megacontext.traces.row import list_values

__all__ = ["CHANGE_DTYPE", "Vitals", "VitalsScan", "changes_of", "residency_of"]

CHANGE_DTYPE = np.dtype(
    [
        ("row", "<u4"),
        ("kind", "i1"),
        ("level", "i1"),
        ("index", "<i8"),
        ("score", "<f4"),
        ("reason", "i1"),
        ("forced", "?"),
        ("applied", "?"),
    ]
)
"""One applied action, or (``applied`` False) one candidate that was turned down."""
_SCALARS = ("step", "tail_tokens", "budget_used")
_COLUMNS = (*_SCALARS, "new_nll", "levels", "actions", "rejected")
GROUP = 64
"""Batches read at a time."""
GROUPS_AHEAD = 4
"""Groups that are decoded before they are asked for."""
_FIELDS = ("kind", "level", "index", "score", "reason")
_ACTION_FIELDS = (*_FIELDS, "cost", "forced")

_Tables: TypeAlias = list[tuple[int, pa.Table | None]]
_Fields: TypeAlias = dict[str, np.ndarray]


@dataclass(frozen=True)
class Vitals:
    """Arrays over the first ``num_rows`` rows; NaN where a row has no such value.

    Attributes:
        nll: mean NLL of the row's new tokens, nats.
        swap: voluntary actions of the refocus up to and with this round, per raw block of the
            frontier that its first round scored; so its last round has the refocus's swap rate.
        residency: share of the scored frontier's nodes that are still there after the actions.
        voluntary: actions that were not forced.
        refused: candidates that were turned down.
        changes: CHANGE_DTYPE[c] by row; read backwards it gives the newest row first, in each row
            the actions in their order and then the refusals.
    """

    nll: np.ndarray
    swap: np.ndarray
    residency: np.ndarray
    voluntary: np.ndarray
    refused: np.ndarray
    changes: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.nll)

    @classmethod
    def empty(cls) -> Vitals:
        """Of no rows."""
        none = np.empty(0, np.float32)
        counts = np.empty(0, np.int32)
        return cls(none, none, none, counts, counts, np.empty(0, CHANGE_DTYPE))


class VitalsScan:
    """Reads the :class:`Vitals` of ``reader``'s rows batch by batch, oldest first.

    A long trace is decoded in a thread of its own, a few groups of batches ahead of those whose
    figures are computed here.
    """

    def __init__(self, reader: TraceReader) -> None:
        self._reader, self._block_size = reader, reader.meta.block_size
        self._batches = 0
        self._parts: list[Vitals] = []
        self._built = _Growing()
        self._open = _Refocus()
        self._decoder: ThreadPoolExecutor | None = None
        self._decoding: deque[tuple[int, Future[_Tables]]] = deque()

    @property
    def complete(self) -> bool:
        """Whether all rows that the reader knows were read."""
        return self._batches >= self._reader.num_batches

    def advance(self, enough: Callable[[], bool]) -> bool:
        """Read groups of batches until ``enough()``, at least one; True when all are read.

        A batch that cannot be decoded counts as rows without values.
        """
        while not self.complete:
            stop, tables = self._next_group()
            for first, table in tables:
                self._take(first, table)
            self._batches = stop
            if enough():
                break
        return self.complete

    def decode_ahead(self) -> None:
        """Start decoding the next groups of batches in the background, where there are many."""
        last = self._reader.num_batches
        start = self._decoding[-1][0] if self._decoding else self._batches
        if last - start <= GROUP:
            return
        self._decoder = self._decoder or ThreadPoolExecutor(1, "vitals")
        while len(self._decoding) < GROUPS_AHEAD and start < last:
            stop = min(start + GROUP, last)
            self._decoding.append((stop, self._decoder.submit(self._decode, start, stop)))
            start = stop

    def _next_group(self) -> tuple[int, _Tables]:
        """The batch after the next group, and the group's tables."""
        self.decode_ahead()
        if self._decoding:
            stop, future = self._decoding.popleft()
            return stop, future.result()
        if self._decoder is not None:
            self._decoder.shutdown(wait=False)
            self._decoder = None
        stop = min(self._batches + GROUP, self._reader.num_batches)
        return stop, self._decode(self._batches, stop)

    def _decode(self, block: int, stop: int) -> _Tables:
        return list(self._reader.tables(_COLUMNS, block, stop))

    def _take(self, first: int, table: pa.Table | None) -> None:
        if table is not None:
            self._parts.append(self._of(first, table))
            return
        block = self._reader.block_of(first)
        self._parts.append(_missing(self._reader.first_row(block + 1) - first))
        self._open = _Refocus()

    def vitals(self) -> Vitals:
        """Those of all rows read so far."""
        if self._parts:
            self._built.extend(self._parts)
            self._parts = []
        return self._built.vitals

    def _of(self, first: int, table: pa.Table) -> Vitals:
        rows = table.num_rows
        scalars = {name: table.column(name).to_numpy().astype(np.int64) for name in _SCALARS}
        actions, action_rows = _structs(table, "actions", _ACTION_FIELDS)
        refusals, refusal_rows = _structs(table, "rejected", _FIELDS)

        # The frontier before the actions, from its size and cost alone: levels are not copied.
        nodes = pc.list_value_length(table.column("levels")).to_numpy().astype(np.int64)
        net = np.bincount(action_rows, actions["cost"], rows).astype(np.int64)
        cost = scalars["budget_used"] - net - scalars["tail_tokens"]
        raw = np.maximum((cost - nodes) // max(self._block_size - 1, 1), 0)
        voluntary = np.bincount(action_rows, ~actions["forced"], rows).astype(np.int32)

        nll = table.column("new_nll").combine_chunks()
        return Vitals(
            _means(*list_values(nll, "new_nll")),
            self._swap_rates(scalars["step"], raw, voluntary),
            residency_of(nodes, action_rows, actions, self._block_size),
            voluntary,
            np.bincount(refusal_rows, minlength=rows).astype(np.int32),
            changes_of(first, rows, (action_rows, actions), (refusal_rows, refusals)),
        )

    def _swap_rates(self, steps: np.ndarray, raw: np.ndarray, voluntary: np.ndarray) -> np.ndarray:
        """F32[rows] from each row's step, raw blocks and voluntary actions."""
        if not len(steps):
            return np.empty(0, np.float32)
        first = np.concatenate([[True], np.diff(steps) != 0])
        first_row = np.maximum.accumulate(np.where(first, np.arange(len(steps)), 0))
        total = np.cumsum(voluntary)
        done = total - (total - voluntary)[first_row]
        blocks = raw[first_row]

        # Rounds of a refocus that began in rows read before.
        continues = (steps == self._open.step) & (first_row == 0)
        done = done + np.where(continues, self._open.voluntary, 0)
        blocks = np.where(continues, self._open.raw_blocks, blocks)
        self._open = _Refocus(int(steps[-1]), int(blocks[-1]), int(done[-1]))
        rates: np.ndarray = np.where(blocks > 0, done / np.maximum(blocks, 1), np.nan)
        return rates.astype(np.float32)


@dataclass(frozen=True)
class _Refocus:
    """The refocus of the newest row read, which later rounds may go on with."""

    step: int = -1
    raw_blocks: int = 0
    voluntary: int = 0


_NAMES = tuple(Vitals.__dataclass_fields__)


class _Growing:
    """Vitals that grow by parts; appending is amortized O(1) per row and change."""

    def __init__(self) -> None:
        self._columns = {name: getattr(Vitals.empty(), name) for name in _NAMES}
        self._counts = dict.fromkeys(_NAMES, 0)
        self.vitals = Vitals.empty()

    def extend(self, parts: list[Vitals]) -> None:
        for name in _NAMES:
            added = np.concatenate([getattr(part, name) for part in parts])
            count, column = self._counts[name], self._columns[name]
            total = count + len(added)
            if total > len(column):  # earlier vitals keep the array that they are views of
                larger = np.empty(max(total, 2 * len(column)), column.dtype)
                larger[:count] = column[:count]
                self._columns[name] = column = larger
            column[count:total] = added
            self._counts[name] = total
        self.vitals = Vitals(*(self._columns[name][: self._counts[name]] for name in _NAMES))


def _structs(table: pa.Table, name: str, fields: Sequence[str]) -> tuple[_Fields, np.ndarray]:
    """Arrays by field of a column of structs, and the row of each struct within the table."""
    column = table.column(name)
    of_row = np.repeat(np.arange(table.num_rows), pc.list_value_length(column).to_numpy())
    values = column.combine_chunks().flatten()
    arrays = {f: values.field(f).to_numpy(zero_copy_only=False) for f in fields}
    return arrays, of_row


def _missing(rows: int) -> Vitals:
    missing, none = np.full(rows, np.nan, np.float32), np.zeros(rows, np.int32)
    return Vitals(missing, missing, missing, none, none, np.empty(0, CHANGE_DTYPE))


def _means(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """F32[rows]: mean of each row's known values, NaN where it has none."""
    values = values[offsets[0] : offsets[-1]].astype(np.float64)
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    bounds = offsets - offsets[0]
    total, count = np.diff(sums[bounds]), np.diff(counts[bounds])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, total / count, np.nan).astype(np.float32)


def residency_of(
    nodes: np.ndarray, of_row: np.ndarray, actions: _Fields, block_size: int
) -> np.ndarray:
    """F32[rows]: share of ``nodes`` that the actions left; ``of_row`` is each action's row."""
    level, index = actions["level"].astype(np.int64), actions["index"].astype(np.int64)
    removed = np.where((actions["kind"] == 0) | (level == 1), 1, block_size)
    lost = np.bincount(of_row, removed, len(nodes))

    # Where one action takes up what another one made, the nodes are followed one by one.
    slot = of_row * 64 + level
    key, parent = (slot << 40) + index, ((slot + 1) << 40) + index // block_size
    ranked = np.sort(key)
    repeated = ranked[1:][ranked[1:] == ranked[:-1]]
    chained = _among(parent, ranked) | _among(key, repeated)
    for row in np.unique(of_row[chained]).tolist():
        in_row = of_row == row
        kinds = actions["kind"][in_row].tolist()
        lost[row] = _lost(kinds, level[in_row].tolist(), index[in_row].tolist(), block_size)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(nodes > 0, 1 - lost / nodes, np.nan).astype(np.float32)


def _among(values: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """bool[n]: whether each value stands in the ascending ``ranked``."""
    if not len(ranked):
        return np.zeros(len(values), bool)
    index = np.minimum(np.searchsorted(ranked, values), len(ranked) - 1)
    equal: np.ndarray = ranked[index] == values
    return equal


def _lost(kinds: list[int], levels: list[int], indices: list[int], block_size: int) -> int:
    """Nodes of a frontier that are gone after one row's actions."""
    fresh: set[tuple[int, int]] = set()
    lost = 0
    for kind, level, index in zip(kinds, levels, indices, strict=True):
        first = index * block_size
        children = (
            [(level - 1, first + i) for i in range(block_size)] if level > 1 else [(0, index)]
        )
        gone, came = ([(level, index)], children) if kind == 0 else (children, [(level, index)])
        lost += sum(node not in fresh for node in gone)
        fresh.difference_update(gone)
        fresh.update(came)
    return lost


def changes_of(
    first: int,
    rows: int,
    actions: tuple[np.ndarray, _Fields],
    refusals: tuple[np.ndarray, _Fields],
) -> np.ndarray:
    """CHANGE_DTYPE[c] of ``rows`` rows from (row within the table, fields) of both kinds."""
    counts = [np.bincount(of_row, minlength=rows) for of_row, _ in (actions, refusals)]
    stops = np.cumsum(counts[0] + counts[1])
    changes = np.empty(int(stops[-1]) if rows else 0, CHANGE_DTYPE)
    changes["row"] = np.repeat(np.arange(first, first + rows), counts[0] + counts[1])

    # Each row from its end down: first its actions in their order, then its refusals.
    for applied, (of_row, fields) in ((True, actions), (False, refusals)):
        last = stops - 1 - (0 if applied else counts[0])
        before = np.cumsum(counts[0 if applied else 1]) - counts[0 if applied else 1]
        at = last[of_row] - (np.arange(len(of_row)) - before[of_row])
        changes["applied"][at] = applied
        changes["forced"][at] = fields["forced"] if applied else False
        for name in _FIELDS:
            changes[name][at] = fields[name]
    return changes
