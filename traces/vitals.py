"""What each row of a run was like, and everything that was done or turned down in it.

Needs more than the overview's scalars (token NLLs, frontier sizes, actions, refusals), so it is
read in slices: whoever draws calls :meth:`VitalsScan.advance` as often as there is time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

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
_LISTS = ("new_nll", "levels", "actions", "rejected")
_SCALARS = ("step", "tail_tokens", "budget_used")
_COLUMNS = (*_SCALARS, *_LISTS)
GROUP = 32
"""Batches read at a time."""
_FIELDS = ("kind", "level", "index", "score", "reason")


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
    """Reads the :class:`Vitals` of ``reader``'s rows batch by batch, oldest first."""

    def __init__(self, reader: TraceReader) -> None:
        self._reader, self._block_size = reader, reader.meta.block_size
        self._batches = 0
        self._parts: list[Vitals] = []
        self._built = Vitals.empty()
        self._open = _Refocus()

    @property
    def complete(self) -> bool:
        """Whether all rows that the reader knows were read."""
        return self._batches >= self._reader.num_batches

    def advance(self, enough: Callable[[], bool]) -> bool:
        """Read groups of batches until ``enough()``, at least one; True when all are read.

        A batch that cannot be decoded counts as rows without values.
        """
        while not self.complete:
            stop = min(self._batches + GROUP, self._reader.num_batches)
            self._take(self._batches, stop)
            self._batches = stop
            if enough():
                break
        return self.complete

    def _take(self, block: int, stop: int) -> None:
        """Read batches [block, stop), neighbours that can be decoded as one."""
        run: list[pa.RecordBatch] = []
        start = self._reader.first_row(block)
        for number, (first, batch) in enumerate(self._reader.project(_COLUMNS, block, stop), block):
            if batch is not None:
                run.append(batch)
                continue
            if run:
                self._parts.append(self._of(start, pa.Table.from_batches(run)))
            start, run = self._reader.first_row(number + 1), []
            self._parts.append(_missing(start - first))
            self._open = _Refocus()
        if run:
            self._parts.append(self._of(start, pa.Table.from_batches(run)))

    def vitals(self) -> Vitals:
        """Those of all rows read so far."""
        if self._parts:
            whole = [self._built, *self._parts]
            self._built = Vitals(
                *(np.concatenate([getattr(v, name) for v in whole]) for name in _NAMES)
            )
            self._parts = []
        return self._built

    def _of(self, first: int, table: pa.Table) -> Vitals:
        lists = {name: list_values(table.column(name).combine_chunks(), name) for name in _LISTS}
        rows = table.num_rows
        scalars = {name: table.column(name).to_numpy().astype(np.int64) for name in _SCALARS}

        # The frontier before the actions, from its size and cost alone: levels need no decoding.
        actions, offsets = lists["actions"]
        of_row = np.repeat(np.arange(rows), np.diff(offsets))
        actions = actions[offsets[0] : offsets[-1]]
        net = np.bincount(of_row, actions["cost"], rows).astype(np.int64)
        nodes = np.diff(lists["levels"][1]).astype(np.int64)
        cost = scalars["budget_used"] - net - scalars["tail_tokens"]
        raw = np.maximum((cost - nodes) // max(self._block_size - 1, 1), 0)
        voluntary = np.bincount(of_row, ~actions["forced"], rows).astype(np.int32)

        # Refusals, and both together as one list.
        refusals, bounds = lists["rejected"]
        refused_in = np.repeat(np.arange(rows), np.diff(bounds))
        refusals = refusals[bounds[0] : bounds[-1]]
        with np.errstate(divide="ignore", invalid="ignore"):
            return Vitals(
                _means(*lists["new_nll"]),
                self._swap_rates(scalars["step"], raw, voluntary),
                residency_of(nodes, of_row, actions, self._block_size),
                voluntary,
                np.diff(bounds).astype(np.int32),
                changes_of(first, (of_row, actions), (refused_in, refusals)),
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
        goes_on = (steps == self._open.step) & (first_row == 0)
        done = done + np.where(goes_on, self._open.voluntary, 0)
        blocks = np.where(goes_on, self._open.raw_blocks, blocks)
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


def _missing(rows: int) -> Vitals:
    gap, none = np.full(rows, np.nan, np.float32), np.zeros(rows, np.int32)
    return Vitals(gap, gap, gap, none, none, np.empty(0, CHANGE_DTYPE))


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
    nodes: np.ndarray, of_row: np.ndarray, actions: np.ndarray, block_size: int
) -> np.ndarray:
    """F32[rows]: share of ``nodes`` that the actions left; ``of_row`` is each action's row."""
    level, index = actions["level"].astype(np.int64), actions["index"].astype(np.int64)
    removed = np.where((actions["kind"] == 0) | (level == 1), 1, block_size)
    lost = np.bincount(of_row, removed, len(nodes))

    # Where one action takes up what another one made, the nodes are followed one by one.
    slot = of_row * 64 + level
    key, parent = (slot << 40) + index, ((slot + 1) << 40) + index // block_size
    _, inverse, times = np.unique(key, return_inverse=True, return_counts=True)
    chained = np.isin(parent, key) | (times[inverse] > 1)
    for row in np.unique(of_row[chained]).tolist():
        lost[row] = _lost(actions[of_row == row], block_size)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(nodes > 0, 1 - lost / nodes, np.nan).astype(np.float32)


def _lost(actions: np.ndarray, block_size: int) -> int:
    """Nodes of a frontier that are gone after one row's ``actions``."""
    fresh: set[tuple[int, int]] = set()
    lost = 0
    for kind, level, index in actions[["kind", "level", "index"]].tolist():
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
    first: int, actions: tuple[np.ndarray, np.ndarray], refusals: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """CHANGE_DTYPE[c] from (row within the batch, action) and (row, refusal) arrays."""
    parts = []
    for applied, (rows, values) in ((True, actions), (False, refusals)):
        part = np.zeros(len(values), CHANGE_DTYPE)
        part["row"], part["applied"] = rows + first, applied
        for name in _FIELDS:
            part[name] = values[name]
        if applied:
            part["forced"] = values["forced"]
        parts.append(part)
    both = np.concatenate(parts)
    order = np.arange(len(both))
    # Stable in reverse: by row, refusals below actions, later ones below earlier ones.
    ranked: np.ndarray = both[np.lexsort((-order, both["row"]))]
    return ranked
