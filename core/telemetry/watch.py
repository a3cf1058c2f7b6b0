"""What watches a session's rows as they are recorded: alarms first, then telemetry."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from megacontext.core.config.schema import Config
from megacontext.core.telemetry.alarms import AlarmMonitor
from megacontext.core.telemetry.sinks import About, make_sinks
from megacontext.core.telemetry.stream import TelemetryStream
from megacontext.traces.refocuses import Refocus, RefocusFollower
from megacontext.traces.row import TraceRow

__all__ = ["SessionWatch", "telemetry_folder"]


def telemetry_folder(config: Config, trace: Path) -> Path:
    """Where a run's sinks write files: ``telemetry.path``, else ``NAME.telemetry`` beside it."""
    if config.telemetry.path:
        return Path(config.telemetry.path)
    return trace.with_name(f"{_run_name(trace)}.telemetry")


def _run_name(trace: Path) -> str:
    return trace.stem.removesuffix(".part")  # a batch moves a trace when it is whole


class SessionWatch:
    """Follows the rows of one session; a context manager around it.

    Called with the rows of a refocus before they are written, on the thread that decodes: it adds
    the alarms' markers to them and puts them into the telemetry's queue, nothing else.

    Args:
        config: the resolved config.
        trace: where the rows go; names the run and the folder of its files.
        recorded: rows of the run so far, where it goes on.
        stale_gists: the GistNet does not fit the base model; ``stale_before``: it did not when the
            rows of ``recorded`` were written.

    Raises:
        ConfigError: a sink's package is missing, or its port is taken.
    """

    def __init__(
        self,
        config: Config,
        trace: Path,
        recorded: Iterable[TraceRow] = (),
        *,
        stale_gists: bool = False,
        stale_before: bool = False,
    ) -> None:
        self._follower = RefocusFollower(config.block_size)
        self._monitor = AlarmMonitor(
            config.alarms, config.focus.protected_blocks, config.block_size, stale_before
        )
        step = 0
        for _, group in groupby(recorded, key=lambda row: row.step):
            rows = list(group)
            self._monitor.add(self._follow(rows), rows)
            step = rows[-1].step
        self._monitor.stale_gists = stale_gists
        self._stream = self._open(config, trace, step) if config.telemetry.sinks else None

    @staticmethod
    def _open(config: Config, trace: Path, step: int) -> TelemetryStream:
        settings = config.telemetry
        about = About(
            _run_name(trace),
            scope="session",
            step=step,
            attributes={
                "gen_ai.operation.name": "text_completion",
                "gen_ai.request.model": Path(config.model.path).name,
                "megacontext.w_max": config.w_max,
                "megacontext.block_size": config.block_size,
                "megacontext.lens": config.lens.kind,
                "megacontext.allocator": config.allocator.kind,
                "megacontext.seed": config.seed,
            },
            port=settings.prometheus_port,
        )

        sinks = make_sinks(settings.sinks, telemetry_folder(config, trace), about)
        return TelemetryStream(
            sinks, flush_s=settings.flush_ms / 1e3, limit=settings.queue_refocuses
        )

    def __call__(self, rows: list[TraceRow]) -> None:
        """Take the rows of a whole refocus."""
        refocus = self._follow(rows)
        texts = self._monitor.add(refocus, rows)
        if texts:
            rows[0].marker = "; ".join([*filter(None, [rows[0].marker]), *texts])
        if self._stream is not None:
            self._stream.put(refocus, rows, self._monitor.on)

    def close(self) -> list[str]:
        """Write what waits and close the sinks; gives what a user should know, as sentences."""
        if self._stream is None:
            return []
        self._stream.close()
        problems = list(self._stream.problems)
        if self._stream.dropped:
            problems.append(
                f"telemetry dropped {self._stream.dropped:,} refocuses; raise "
                "telemetry.queue_refocuses"
            )
        return problems

    def _follow(self, rows: list[TraceRow]) -> Refocus:
        for row in rows:
            refocus = self._follower.add(
                step=row.step,
                levels=row.levels,
                actions=row.actions,
                appended_levels=row.appended_levels,
                history_tokens=row.history_tokens,
                tail_tokens=row.tail_tokens,
                budget_used=row.budget_used,
                w_max=row.w_max,
                new_nll=row.new_nll,
            )
        return refocus
