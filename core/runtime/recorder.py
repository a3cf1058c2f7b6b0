"""Collects what happened since the last row and turns each refocus round into a trace row."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from megacontext.core.config import FocusConfig
from megacontext.core.focus import RoundResult
from megacontext.core.model.window import SyncStats
from megacontext.traces.row import PAIR_DTYPE, TraceRow
from megacontext.traces.schema import Phase
from megacontext.traces.writer import TraceWriter

__all__ = ["Observer", "Recorder", "StageTimings", "TimedRound"]

Observer = Callable[[list[TraceRow]], None]
"""Given the rows of a whole refocus before they are written; may add to their markers."""


@dataclass(frozen=True)
class TimedRound:
    """A refocus round and what it took, microseconds.

    ``pairs`` PAIR_DTYPE [n]: which tokens of the question met which tokens of the history, where
    the lens says so.
    """

    result: RoundResult
    us_lens: float
    us_alloc: float
    pairs: np.ndarray = field(default_factory=lambda: np.empty(0, PAIR_DTYPE))


@dataclass
class StageTimings:
    """Stage times since the last row, microseconds."""

    gist: float = 0.0
    kv: float = 0.0
    decode: float = 0.0
    record: float = 0.0


@dataclass
class _Pending:
    tokens: list[np.ndarray] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    nll: list[np.ndarray] = field(default_factory=list)
    levels: list[np.ndarray] = field(default_factory=list)
    markers: list[str] = field(default_factory=list)
    delta_nll: float | None = None
    knobs: str | None = None


class Recorder:
    """Builds rows for a :class:`TraceWriter`; what it is told belongs to the next row."""

    def __init__(self, writer: TraceWriter, observers: Sequence[Observer] = ()) -> None:
        self.writer = writer
        self._observers = observers
        self.timings = StageTimings()
        self._pending = _Pending()

    def tokens(
        self, tokens: np.ndarray, text: list[str], nll: np.ndarray, added: np.ndarray
    ) -> None:
        """New history: uint32 [t] ids, t texts, float32 [t] nats, int8 [m] levels entered."""
        self._pending.tokens.append(tokens)
        self._pending.text.extend(text)
        self._pending.nll.append(nll)
        self._pending.levels.append(added)

    def marker(self, text: str) -> None:
        """A mark on the next row; several are joined by '; '."""
        self._pending.markers.append(text)

    def delta_nll(self, value: float) -> None:
        """A measured delta NLL in nats per token."""
        self._pending.delta_nll = value

    def knobs(self, focus: FocusConfig, w_max: int) -> None:
        """Limits in force from the next row on."""
        self._pending.knobs = json.dumps({"focus": asdict(focus), "w_max": w_max}, sort_keys=True)

    @property
    def has_pending(self) -> bool:
        """Whether tokens or markers wait for a row."""
        return bool(self._pending.tokens or self._pending.markers)

    def refocus(
        self,
        rounds: list[TimedRound],
        sync: SyncStats,
        phase: Phase,
    ) -> None:
        """One row per round; the KV figures go with the last, the new tokens with the first."""
        start = time.perf_counter()
        now, pending, times = time.time_ns(), self._pending, self.timings
        self._pending, self.timings = _Pending(), StageTimings()
        rows: list[TraceRow] = []

        # What happened since the last row goes with the first round, what followed with the last.
        for number, timed in enumerate(rounds):
            result, last = timed.result, number == len(rounds) - 1
            row = TraceRow(
                step=result.step,
                round=number,
                t_ns=now,
                phase=phase,
                history_tokens=result.n_tokens,
                tail_tokens=result.tail_tokens,
                levels=result.levels,
                scores=result.scores,
                actions=result.actions,
                rejected=result.rejected,
                budget_used=result.budget_used,
                w_max=result.w_max,
                trigger=result.trigger,
                score_pairs=timed.pairs,
                kv_mode=sync.mode,
            )
            if number == 0:
                _fill_news(row, pending)
                row.us_gist, row.us_decode = times.gist, times.decode
                row.us_record = times.record
            if last:
                row.kv_rows, row.kv_drift, row.us_kv = sync.rows, sync.drift, times.kv
            row.us_lens, row.us_alloc = timed.us_lens, timed.us_alloc
            rows.append(row)

        # Observers may add to the markers before anything is written.
        for observe in self._observers:
            observe(rows)
        for row in rows:
            self.writer.put(row)
        self.timings.record += (time.perf_counter() - start) * 1e6


def _fill_news(row: TraceRow, pending: _Pending) -> None:
    if pending.tokens:
        row.new_tokens = np.concatenate(pending.tokens)
        row.new_nll = np.concatenate(pending.nll)
        row.appended_levels = np.concatenate(pending.levels)
    row.new_text = pending.text
    row.marker = "; ".join(pending.markers) or None
    row.delta_nll = pending.delta_nll
    row.knobs = pending.knobs
