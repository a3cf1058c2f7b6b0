"""What rows say about one node, read without the rest of them: a life needs every row."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from megacontext.traces.reader import TraceReader
from megacontext.traces.row import list_values
from megacontext.tui.sources.node_history import NOTHING, STATES, Event, NodeSnapshot
from megacontext.tui.sources.row_model import Spans
from megacontext.tui.state.view import Node

__all__ = ["NodeScan"]

COLUMNS = ("step", "levels", "scores", "actions", "rejected")
CHANGES = ("actions",)
_MAX_LEVELS = 24
CACHED_BATCHES = 4
"""Batches kept: a life is read in two directions."""


@dataclass(frozen=True)
class _Batch:
    """The columns of one record batch; lists as flat values with each row's offsets."""

    first: int
    steps: np.ndarray
    lists: dict[str, tuple[np.ndarray, np.ndarray]]
    unscored: np.ndarray

    @classmethod
    def of(cls, first: int, batch: pa.RecordBatch) -> _Batch:
        lists = {name: list_values(batch.column(name), name) for name in COLUMNS[1:]}
        unscored = batch.column("scores").is_null().to_numpy(zero_copy_only=False)
        return cls(first, batch.column("step").to_numpy(), lists, unscored)

    def values(self, name: str, index: int) -> np.ndarray:
        flat, offsets = self.lists[name]
        matches: np.ndarray = flat[offsets[index] : offsets[index + 1]]
        return matches


class NodeScan:
    """Looks at one node in the rows of ``reader``. Checksums are left to whoever shows the row."""

    def __init__(self, reader: TraceReader, block_size: int) -> None:
        self._reader, self._block_size = reader, block_size
        self._batches: OrderedDict[int, _Batch | None] = OrderedDict()
        self._indexed = 0  # batches whose actions are in the three lists
        self._rows: list[np.ndarray] = []
        self._levels: list[np.ndarray] = []
        self._index: list[np.ndarray] = []

    def acted(self, node: Node) -> np.ndarray:
        """Numbers of the rows in which ``node`` was expanded or collapsed, ascending.

        The first call reads this one column of the whole trace, a later one what has been added.
        """
        stop = self._reader.num_batches
        for first, batch in self._reader.project(CHANGES, self._indexed, stop):
            if batch is not None:
                actions, offsets = list_values(batch.column(0), "actions")
                counts = np.diff(offsets)
                used = actions[offsets[0] : offsets[-1]]
                self._rows.append(np.repeat(np.arange(first, first + len(counts)), counts))
                self._levels.append(used["level"])
                self._index.append(used["index"])
        self._indexed = stop
        if not self._rows:
            return np.empty(0, np.int64)
        for parts in (self._rows, self._levels, self._index):
            parts[:] = [np.concatenate(parts)]
        matches = (self._levels[0] == node.level) & (self._index[0] == node.index)
        return np.unique(self._rows[0][matches])

    def look(self, number: int, node: Node) -> NodeSnapshot:
        """What row ``number`` says about ``node``; nothing where the row cannot be read.

        Raises:
            TraceError: the reader was closed.
        """
        batch = self._batch(self._reader.block_of(number))
        if batch is None:
            return NOTHING
        index = number - batch.first
        levels = batch.values("levels", index)
        if len(levels) and not 0 <= levels.min() <= levels.max() <= _MAX_LEVELS:
            return NOTHING  # a flipped bit; the row itself says that it is damaged
        spans = Spans(levels, self._block_size)
        state, entry = spans.state(node)
        score = float("nan")
        if state in ("raw", "gist") and not batch.unscored[index]:
            scores = batch.values("scores", index)
            score = float(scores[entry]) if entry < len(scores) else score

        # Its actions, then its refusals.
        step, events = int(batch.steps[index]), []
        for a in _about(batch.values("actions", index), node):
            kind, reason = int(a["kind"]), int(a["reason"])
            what = ("expand", "collapse")[kind]
            events.append(
                Event(number, step, what, kind, float(a["score"]), reason, bool(a["forced"]))
            )
        for r in _about(batch.values("rejected", index), node):
            kind, reason = int(r["kind"]), int(r["reason"])
            events.append(Event(number, step, "refused", kind, float(r["score"]), reason, False))
        return NodeSnapshot(score, STATES.index(state), tuple(events))

    def _batch(self, block: int) -> _Batch | None:
        if block in self._batches:
            self._batches.move_to_end(block)
            return self._batches[block]
        first, batch = next(self._reader.project(COLUMNS, block, block + 1))
        matches = self._batches[block] = None if batch is None else _Batch.of(first, batch)
        while len(self._batches) > CACHED_BATCHES:
            self._batches.popitem(last=False)
        return matches


def _about(changes: np.ndarray, node: Node) -> np.ndarray:
    matches: np.ndarray = changes[
        (changes["level"] == node.level) & (changes["index"] == node.index)
    ]
    return matches
