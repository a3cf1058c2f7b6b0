"""One node's whole life: every score it got, every action on it, every time it was turned down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from megacontext.tui.sources.row_model import F64, I64, RowModel
from megacontext.tui.state.view import Node

__all__ = [
    "NOTHING",
    "STATES",
    "Event",
    "LifeReader",
    "NodeLife",
    "NodeSnapshot",
    "events_of",
    "snapshot_of",
]

STATES = ("absent", "inside", "gist", "raw", "open")


class Event(NamedTuple):
    """Something that happened to the node. ``what``: expand, collapse, refused."""

    row: int
    step: int
    what: str
    kind: int
    score: float
    reason: int
    forced: bool


@dataclass(frozen=True)
class NodeLife:
    """The part of a node's life that was read so far, oldest row first.

    Attributes:
        node: the node.
        rows: row numbers, ascending.
        scores: its score in each of them, NaN where it was not itself in the frontier.
        states: index into ``STATES`` for each of them.
        events: everything that happened to it.
        complete: all rows of the trace were read.
    """

    node: Node
    rows: I64
    scores: F64
    states: I64
    events: tuple[Event, ...]
    complete: bool

    def upto(self, row: int) -> NodeLife:
        """The life as it was known at ``row``."""
        n = int(np.searchsorted(self.rows, row, "right"))
        if n == len(self.rows):
            return self
        events = tuple(e for e in self.events if e.row <= row)
        return NodeLife(
            self.node, self.rows[:n], self.scores[:n], self.states[:n], events, self.complete
        )


def events_of(row: RowModel, node: Node) -> list[Event]:
    """What happened to ``node`` in ``row``: actions in order, then refusals."""
    number, step, kinds = row.number, row.step, ("expand", "collapse")
    node_events = [
        Event(number, step, kinds[a.kind], a.kind, a.score, a.reason, a.forced)
        for a in row.actions
        if a.node == node
    ]
    refused = [
        Event(number, step, "refused", r.kind, r.score, r.reason, False)
        for r in row.refused
        if r.node == node
    ]
    return node_events + refused


class NodeSnapshot(NamedTuple):
    """What one row says about a node: its score (NaN: none), index into ``STATES``, events."""

    score: float
    state: int
    events: tuple[Event, ...]


NOTHING = NodeSnapshot(float("nan"), STATES.index("absent"), ())


def snapshot_of(row: RowModel, node: Node) -> NodeSnapshot:
    """What ``row`` says about ``node``."""
    state = STATES.index(row.before.state(node)[0])
    return NodeSnapshot(row.score_of(node), state, tuple(events_of(row, node)))


class LifeReader:
    """Collects a node's life row by row: near rows first, the past before the future.

    Call :meth:`advance` with a stop condition as often as there is time; the life so far is
    always a gap-free run of rows around the row it started from.
    """

    def __init__(self, node: Node, around: int, look: Callable[[int, Node], NodeSnapshot]) -> None:
        self.node = node
        self._look = look
        self._around = self._low = around
        self._high = around + 1
        self._score: dict[int, float] = {}
        self._state: dict[int, int] = {}
        self._events: list[Event] = []
        self._built: tuple[int, bool, NodeLife] | None = None

    @property
    def known(self) -> int:
        """Rows read so far."""
        return len(self._score)

    def covers(self, count: int) -> bool:
        """Whether all of ``count`` rows were read."""
        return self._low < 0 and self._high >= count

    def advance(self, count: int, enough: Callable[[], bool]) -> bool:
        """Read rows of a trace of ``count`` rows until ``enough()``; True when all are read.

        Reads at least one row where any is left.
        """
        while self._low >= 0 or self._high < count:
            past, future = self._around - self._low, self._high - self._around
            if self._high < count and (self._low < 0 or future * 3 < past):
                number, self._high = self._high, self._high + 1
            else:
                number, self._low = self._low, self._low - 1
            self._take(number, self._look(number, self.node))
            if enough():
                break
        return self.covers(count)

    def _take(self, number: int, seen: NodeSnapshot) -> None:
        self._score[number], self._state[number] = seen.score, seen.state
        self._events += seen.events

    def life(self, count: int) -> NodeLife:
        """What is known so far."""
        complete = self.covers(count)
        if self._built and self._built[:2] == (len(self._score), complete):
            return self._built[2]
        rows = sorted(self._score)
        life = NodeLife(
            self.node,
            np.array(rows, np.int64),
            np.array([self._score[r] for r in rows]),
            np.array([self._state[r] for r in rows], np.int64),
            tuple(sorted(self._events, key=lambda e: e.row)),
            complete,
        )
        self._built = (len(self._score), complete, life)
        return life
