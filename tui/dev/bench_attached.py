"""What watching costs the engine: ``megacontext bench attached``.

The same session runs headless and with an inspector attached through a pseudo-terminal, in turn.
Speed is read from the trace's own clock over the decoding part; CPU seconds of both processes,
which other load on the machine hardly changes, tell where a difference comes from.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.traces.control import ControlClient, ControlError
from megacontext.traces.errors import MegaContextError
from megacontext.traces.reader import TraceReader
from megacontext.traces.schema import Phase
from megacontext.tui.dev.pseudo_terminal import PseudoTerminal
from megacontext.tui.live.engine_process import EngineProcess, engine_command

__all__ = ["LIMIT", "bench"]

LIMIT = 0.98
"""Attached over headless decode speed."""
START_S, RUN_S = 180.0, 540.0
WARM_UP = 0.2
"""Share of the decoded tokens that is left out at the start."""

SESSION = """
seed: 0
w_max: 1024
kv: {{mode: splice}}
source:
  kind: script
  text: {{kind: python, package: pydoc+stdlib, max_tokens: 0}}
  segments:
    - {{kind: ingest, tokens: {ingest}}}
    - {{kind: decode, tokens: {tokens}}}
"""


@dataclass(frozen=True)
class BenchRun:
    """One run of the session.

    Attributes:
        tokens_per_s: decode speed by the trace's clock.
        engine_cpu_s, inspector_cpu_s: from the moment when the session was let go to its end.
        seconds: wall time between the same two moments.
    """

    tokens_per_s: float
    engine_cpu_s: float
    inspector_cpu_s: float
    seconds: float


def bench(
    *,
    pairs: int = 5,
    tokens: int = 6_000,
    ingest: int = 2_048,
    size: tuple[int, int] = (120, 40),
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Measure and return figures with the limit.

    Args:
        pairs: how often each of the two ways is run.
        tokens: decoded in each run.
        ingest: tokens read before.
        size: of the terminal, columns and lines.
        overrides: ``key=value`` of the session's config, for example ``device=cpu``.

    Raises:
        MegaContextError: the engine or the inspector did not start.
    """
    load = os.getloadavg()[0]
    runs: dict[bool, list[BenchRun]] = {False: [], True: []}

    # Both ways in turn, each first in every second pair: load that drifts hits both alike.
    with tempfile.TemporaryDirectory(prefix="mc-attached-") as name:
        folder = Path(name)
        config = folder / "session.yaml"
        config.write_text(SESSION.format(ingest=ingest, tokens=tokens), encoding="utf-8")
        for pair in range(pairs):
            for watched in (False, True) if pair % 2 == 0 else (True, False):
                trace = folder / f"run-{pair}-{watched}.arrow"
                runs[watched].append(_run(config, trace, overrides, size if watched else None))

    # Medians, and the ratio that is the target.
    headless, watched_runs = runs[False], runs[True]
    ratio = _median(watched_runs, "tokens_per_s") / _median(headless, "tokens_per_s")
    metrics = {
        "ratio": round(ratio, 4),
        "pair_ratios": [
            round(b.tokens_per_s / a.tokens_per_s, 4)
            for a, b in zip(headless, watched_runs, strict=True)
        ],
        "headless_tokens_per_s": round(_median(headless, "tokens_per_s"), 1),
        "attached_tokens_per_s": round(_median(watched_runs, "tokens_per_s"), 1),
        "headless_engine_cpu_s": round(_median(headless, "engine_cpu_s"), 2),
        "attached_engine_cpu_s": round(_median(watched_runs, "engine_cpu_s"), 2),
        "inspector_cpu_s": round(_median(watched_runs, "inspector_cpu_s"), 2),
        "inspector_cpu_share": round(
            statistics.median(run.inspector_cpu_s / run.seconds for run in watched_runs), 4
        ),
        "load_before": round(load, 2),
    }
    return {"figures": metrics, "limits": {"ratio": LIMIT}, "ok": ratio >= LIMIT}


def _median(runs: list[BenchRun], name: str) -> float:
    return float(statistics.median(getattr(run, name) for run in runs))


def _run(
    config: Path, trace: Path, overrides: tuple[str, ...], size: tuple[int, int] | None
) -> BenchRun:
    """One session; with ``size`` an inspector on a terminal of that size watches it."""
    engine = EngineProcess(engine_command(config, trace, list(overrides)), trace)
    inspector: PseudoTerminal | None = None
    try:
        with _paused(engine, trace) as client:
            inspector = _watch(trace, size) if size else None
            watching = inspector.process.pid if inspector else 0
            before = [_cpu_s(engine.pid), _cpu_s(watching)]
            began, reaped = time.monotonic(), _reaped_cpu_s()
            client.send("resume")

        # The engine runs to its end; its CPU time is read when it was waited for.
        if not engine.wait(RUN_S):
            raise MegaContextError(f"the session took more than {RUN_S:g} s; decode fewer tokens.")
        if engine.problem():
            raise MegaContextError(engine.problem())
        after = [_reaped_cpu_s() - reaped, _cpu_s(watching)]
        seconds = time.monotonic() - began
    finally:
        engine.terminate()
        if inspector is not None:
            inspector.stop()
    used = [late - early for late, early in zip(after, before, strict=True)]
    return BenchRun(_speed(trace), used[0], used[1], seconds)


def _paused(engine: EngineProcess, trace: Path) -> ControlClient:
    """A connection to the engine, which waits at its first step."""
    deadline = time.monotonic() + START_S
    while engine.running and time.monotonic() < deadline:
        try:
            client = ControlClient.connect(trace, timeout_s=START_S)
        except ControlError:  # it is still loading, or has made its socket but not opened it
            time.sleep(0.05)
            continue
        client.send("pause")
        return client
    raise MegaContextError(engine.problem() or "the engine does not listen; run it by hand.")


def _watch(trace: Path, size: tuple[int, int]) -> PseudoTerminal:
    """``mc-tui live --attach`` on a terminal, after its first paint."""
    state = trace.parent / "state" / "megacontext"
    state.mkdir(parents=True, exist_ok=True)
    (state / "inspector-seen").touch()  # no hint over the panes
    command = [sys.executable, "-m", "megacontext.tui.cli", "live", "--attach", str(trace)]
    terminal = PseudoTerminal.start(command, size, {"XDG_STATE_HOME": str(state.parent)})
    terminal.read_until(b"REC", START_S)
    terminal.swallow()
    return terminal


def _cpu_s(pid: int) -> float:
    """CPU seconds of a running process, all threads; 0 for pid 0."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _reaped_cpu_s() -> float:
    """CPU seconds of all children that ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _speed(trace: Path) -> float:
    """Decoded tokens per second by the trace's clock, without the first of them."""
    reader = TraceReader.open(trace)
    o = reader.overview()
    reader.close()
    rows = np.flatnonzero(o.phase == Phase.DECODE)
    if not len(rows):
        raise MegaContextError("the session decoded nothing; raise the number of tokens.")
    rows = rows[int(len(rows) * WARM_UP) :]
    first, last = int(rows[0]), int(rows[-1])
    tokens = int(o.history_tokens[last]) - int(o.history_tokens[first])
    return tokens / max((int(o.t_ns[last]) - int(o.t_ns[first])) / 1e9, 1e-9)
