"""From the decoding thread to the sinks: a bounded queue and a thread that works in batches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from megacontext.core.telemetry.measure import RunTotals, refocus_metrics, refocus_span
from megacontext.core.telemetry.sinks import MetricSink
from megacontext.traces.refocuses import Refocus
from megacontext.traces.row import TraceRow

__all__ = ["TelemetryStream"]


class TelemetryStream:
    """Takes refocuses at once and writes them to the sinks later; a context manager.

    A sink that fails is left out from then on and named in ``problems``; nothing that happens here
    reaches the session.

    Args:
        sinks: where metrics go.
        flush_s: seconds between two batches.
        limit: refocuses that may wait; beyond, they are dropped and counted in ``dropped``.
    """

    def __init__(self, sinks: Sequence[MetricSink], *, flush_s: float, limit: int) -> None:
        self.dropped = 0
        self.problems: list[str] = []
        self._sinks = list(sinks)
        self._limit, self._flush_s = limit, flush_s
        self._waiting: deque[tuple[Refocus, Sequence[TraceRow], int]] = deque()
        self._totals = RunTotals()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="telemetry", daemon=True)
        self._thread.start()

    def put(self, refocus: Refocus, rows: Sequence[TraceRow], alarms: int) -> None:
        """Take a whole refocus and the number of alarms that are on; never waits."""
        if len(self._waiting) >= self._limit:
            self.dropped += 1
            return
        self._waiting.append((refocus, rows, alarms))

    def close(self) -> None:
        """Write what waits, then close the sinks."""
        self._ending.set()
        self._thread.join()
        for sink in list(self._sinks):
            self._call(sink, "close")

    def __enter__(self) -> TelemetryStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self) -> None:
        while not self._ending.wait(self._flush_s):
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        step = -1
        while self._waiting:
            refocus, rows, alarms = self._waiting.popleft()
            step = refocus.step
            self._totals.add(refocus, rows)
            metrics = refocus_metrics(refocus, rows) | {"alarms": float(alarms)}
            if not self._waiting:  # the newest of the batch says what the run came to so far
                metrics |= self._totals.values() | {"run.dropped": float(self.dropped)}
            span = refocus_span(metrics, rows)
            for sink in list(self._sinks):
                self._call(sink, "write", step, metrics)
                self._call(sink, "span", span)
        if step >= 0:
            for sink in list(self._sinks):
                self._call(sink, "flush")

    def _call(self, sink: MetricSink, method: str, *arguments: object) -> None:
        if sink not in self._sinks:
            return
        try:
            getattr(sink, method)(*arguments)
        except Exception as error:  # libraries of others: any failure costs the sink, not the run
            self._sinks.remove(sink)
            name = type(sink).__name__.removesuffix("Sink").lower()
            self.problems.append(f"telemetry to {name} stopped: {type(error).__name__}: {error}")
