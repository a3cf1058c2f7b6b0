"""One run from config to trace: build or resume, drive the session, close everything."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path

import numpy as np

from megacontext.core.config import Config, dump_config
from megacontext.core.runtime.build import EngineParts, build_parts
from megacontext.core.runtime.controller import Controller
from megacontext.core.runtime.pretrained import weights_id
from megacontext.core.runtime.recorder import Recorder
from megacontext.core.runtime.resume import STALE_GISTS, Resumed, restore
from megacontext.core.runtime.script import Outcome, ScriptRunner
from megacontext.core.runtime.session import Session
from megacontext.core.runtime.skip_replayed import ReplaySkipper
from megacontext.core.runtime.socket_controller import LineController, SocketController
from megacontext.core.sources import Event, Ingest, check_source, open_source
from megacontext.core.telemetry.watch import SessionWatch
from megacontext.traces.control import ControlServer
from megacontext.traces.errors import TraceError
from megacontext.traces.meta import TraceMeta
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import TraceRow
from megacontext.traces.target import Claim, claim
from megacontext.traces.writer import SCORES_PER_ROW, TraceWriter

__all__ = ["RunResult", "metadata", "run", "trace_writer"]


@dataclass(frozen=True)
class RunResult:
    """A finished run: its outcome, its trace and its wall time in seconds."""

    outcome: Outcome
    trace: Path
    seconds: float
    notes: tuple[str, ...]


def run(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = True,
    control: bool = True,
    read_stdin: bool = True,
    progress: Callable[[int], None] = lambda n_tokens: None,
    on_notes: Callable[[list[str]], None] = lambda notes: None,
    on_ready: Callable[[], None] = lambda: None,
) -> RunResult:
    """Run one session and record it at ``out``.

    Args:
        config: the checked config.
        out: the trace.
        resume: go on with the interrupted run recorded at ``out``.
        overwrite: an existing trace at ``out`` is replaced, once this run has rows.
        control: serve a control socket beside the trace.
        read_stdin: a prompt source takes its turns from standard input, too.
        progress: called with N after every refocus.
        on_notes: told what a user should know before the run starts.
        on_ready: called once the trace and the control socket are there.
    """
    if resume and not out.exists():
        raise TraceError(f"trace {out} does not exist; there is nothing to resume, drop --resume.")
    check_source(config.source)
    start = time.monotonic()
    with claim(out, overwrite=overwrite, resume=resume) as taken:
        parts = build_parts(config)
        try:
            if parts.tree.n_tokens and not resume:
                parts.notes.append(
                    f"the tree holds {parts.tree.n_tokens:,} tokens already and this run goes on "
                    "behind them; for a new history name another --tree"
                )
            on_notes(parts.notes)
            before = len(parts.notes)
            restored = restore(parts, taken.path) if resume else Resumed()
            # A source whose text cannot be read must not cost the trace that lies at ``out``.
            events = open_source(config.source, parts.base.tokenizer)
            first = [*_opening(parts, restored, resume), *islice(events, 1)]
            events = chain(first, events)
            outcome = _drive(
                parts, events, taken, restored, control, read_stdin, progress, on_ready
            )
            on_notes(parts.notes[before:])  # what telemetry has to say
        finally:
            parts.close()
    return RunResult(outcome, out, time.monotonic() - start, tuple(parts.notes))


def _opening(parts: EngineParts, restored: Resumed, resume: bool) -> list[Event]:
    """The token that begins a sequence, in front of a history that begins with this run."""
    ids = np.asarray(parts.base.tokenizer.start_ids, np.uint32)
    starts = not parts.tree.n_tokens
    if resume and len(restored.source_history):
        starts = np.array_equal(restored.source_history[: len(ids)], ids)
    return [Ingest(ids)] if len(ids) and starts else []


def _drive(
    parts: EngineParts,
    events: Iterator[Event],
    taken: Claim,
    restored: Resumed,
    control: bool,
    read_stdin: bool,
    progress: Callable[[int], None],
    on_ready: Callable[[], None],
) -> Outcome:
    watch = SessionWatch(
        parts.config,
        taken.path,
        _recorded_rows(taken.path, restored.rows),
        stale_gists=bool(parts.stale_gists),
        stale_before=restored.stale_gists,
    )
    writer = trace_writer(parts, taken, restored.rows)
    with writer:
        server = ControlServer(taken.path) if control else None
        try:
            controller: Controller = (
                SocketController(server, read_stdin=read_stdin) if server else LineController()
            )
            session = Session(parts, Recorder(writer, [watch]), controller, progress)
            session.restore(restored)
            on_ready()

            # A resumed run skips what its history holds of the source.
            skipper = ReplaySkipper(
                restored.source_history,
                restored.positions,
                parts.base.tokenizer,
                session.register_fact,
            )
            outcome = ScriptRunner(session).run(skipper.remaining(events))
            outcome.answers[:0] = skipper.answers
            return outcome
        finally:
            if server is not None:
                server.close()
            parts.notes.extend(watch.close())


def _recorded_rows(trace: Path, count: int) -> Iterator[TraceRow]:
    """The first ``count`` rows of a trace that goes on."""
    if count:
        with TraceReader.open(trace) as reader:
            yield from reader.rows(0, count)


def trace_writer(parts: EngineParts, taken: Claim, rows: int = 0) -> TraceWriter:
    """A writer of the claimed trace, which keeps the first ``rows`` rows that are there."""
    trace = parts.config.trace
    mode, _, top_k = trace.scores.partition(":")
    return TraceWriter(
        taken.path,
        metadata(parts),
        scores=mode,
        flush_rows=trace.flush_rows,
        flush_ms=trace.flush_ms,
        queue_rows=trace.queue_rows,
        top_k=int(top_k or SCORES_PER_ROW),
        prefix=taken.path if rows else None,
        prefix_rows=rows or None,
        lock=taken.lock,
    )


def metadata(parts: EngineParts) -> dict[str, str]:
    """The ``mc.*`` metadata of a run."""
    config = parts.config
    bundled = weights_id(config)

    # A trace repeats its run: it holds the whole config, and what the config does not name.
    return TraceMeta(
        block_size=config.block_size,
        w_max=config.w_max,
        levels=config.tree.max_levels,
        seed=config.seed,
        config=dump_config(config),
        model=config.model.path,
        tokenizer=type(parts.base.tokenizer.hf).__name__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git=_commit(),
        extra={
            "mc.gist_checkpoint": parts.gister.checkpoint_id,
            "mc.lens": parts.lens.name,
            "mc.notes": "\n".join(parts.notes),
        }
        | ({"mc.allocator": parts.focus.allocator.name} if parts.foreign_allocator else {})
        | ({"mc.weights": bundled} if bundled else {})
        | ({STALE_GISTS: parts.stale_gists} if parts.stale_gists else {}),
    ).to_metadata()


def _commit() -> str:
    """The commit of the checkout this code runs from; empty where there is none."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
