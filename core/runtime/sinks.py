"""Where a session's rows go: a port with one method per event, and sinks that need no file."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from megacontext.core.config import FocusConfig
from megacontext.core.model.window import SyncStats
from megacontext.core.runtime.recorder import StageTimings, TimedRound
from megacontext.traces.schema import Phase

__all__ = ["LastRefocus", "NullSink", "TraceSink"]


class TraceSink(Protocol):
    """What a session reports; everything belongs to the next row.

    ``timings`` are the stage times since the last row; the session adds to them.
    """

    timings: StageTimings

    def tokens(
        self, tokens: np.ndarray, text: list[str], nll: np.ndarray, added: np.ndarray
    ) -> None:
        """New history: uint32 [t] ids, t texts, float32 [t] nats, int8 [m] levels entered."""
        ...

    def marker(self, text: str) -> None:
        """A mark on the next row."""
        ...

    def delta_nll(self, value: float) -> None:
        """A measured delta NLL in nats per token."""
        ...

    def knobs(self, focus: FocusConfig, w_max: int) -> None:
        """Limits in force from the next row on."""
        ...

    @property
    def has_pending(self) -> bool:
        """Whether tokens or markers wait for a row."""
        ...

    def refocus(self, rounds: list[TimedRound], sync: SyncStats, phase: Phase) -> None:
        """A refocus: its rounds in order, and what the window did afterwards."""
        ...


class NullSink:
    """A :class:`TraceSink` that records nothing."""

    has_pending = False  # no row waits, so the end of a session needs no refocus

    def __init__(self) -> None:
        self.timings = StageTimings()

    def tokens(
        self, tokens: np.ndarray, text: list[str], nll: np.ndarray, added: np.ndarray
    ) -> None:
        """See :class:`TraceSink`."""

    def marker(self, text: str) -> None:
        """See :class:`TraceSink`."""

    def delta_nll(self, value: float) -> None:
        """See :class:`TraceSink`."""

    def knobs(self, focus: FocusConfig, w_max: int) -> None:
        """See :class:`TraceSink`."""

    def refocus(self, rounds: list[TimedRound], sync: SyncStats, phase: Phase) -> None:
        """See :class:`TraceSink`."""


class LastRefocus:
    """Passes everything on to another sink and remembers the last refocus.

    Attributes:
        rounds: of the last refocus.
        read: a list that collects the rounds of all refocuses while text is read, or None.
    """

    def __init__(self, sink: TraceSink) -> None:
        self._sink = sink
        self.rounds: list[TimedRound] = []
        self.read: list[TimedRound] | None = None

    @property
    def timings(self) -> StageTimings:
        return self._sink.timings

    @timings.setter
    def timings(self, times: StageTimings) -> None:
        self._sink.timings = times

    @property
    def has_pending(self) -> bool:
        """See :class:`TraceSink`."""
        return self._sink.has_pending

    def tokens(
        self, tokens: np.ndarray, text: list[str], nll: np.ndarray, added: np.ndarray
    ) -> None:
        """See :class:`TraceSink`."""
        self._sink.tokens(tokens, text, nll, added)

    def marker(self, text: str) -> None:
        """See :class:`TraceSink`."""
        self._sink.marker(text)

    def delta_nll(self, value: float) -> None:
        """See :class:`TraceSink`."""
        self._sink.delta_nll(value)

    def knobs(self, focus: FocusConfig, w_max: int) -> None:
        """See :class:`TraceSink`."""
        self._sink.knobs(focus, w_max)

    def refocus(self, rounds: list[TimedRound], sync: SyncStats, phase: Phase) -> None:
        """See :class:`TraceSink`."""
        self.rounds = rounds
        if self.read is not None and phase == Phase.INGEST:
            self.read += rounds
        self._sink.refocus(rounds, sync, phase)
