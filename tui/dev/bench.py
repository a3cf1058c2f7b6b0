"""Speed of the inspector on a large made trace: ``megacontext bench tui``.

Opening, seeking and drawing are timed inside this process; first paint, key to paint and memory
in a second one that runs on a real pseudo-terminal of 200 x 60 cells.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.traces.errors import MegaContextError
from megacontext.traces.reader import TraceReader
from megacontext.traces.synthetic import make_trace
from megacontext.traces.writer import TraceWriter
from megacontext.tui.app import InspectorApp
from megacontext.tui.dev.pseudo_terminal import PseudoTerminal
from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.state.playback import Playback

__all__ = ["LIMITS", "bench"]

WIDTH, HEIGHT = 200, 60
ROWS_PER_S = 20

LIMITS: dict[str, float] = {
    "open_s": 1.0,
    "first_paint_s": 0.5,
    "overview_s": 1.0,
    "seek_ms_p99": 50.0,
    "frame_ms_p99": 50.0,
    "key_to_paint_ms_p95": 100.0,
    "resident_mb": 500.0,
}
"""What the inspector promises on 31,250 rows of 8,192 entries, nothing else on the machine."""

BUSY_LIMITS: dict[str, float] = {"key_to_paint_ms_p95": 150.0}
"""What it promises beside four busy processes."""


def bench(
    *,
    rows: int = 31_250,
    tokens: int = 1_000_000,
    entries: int = 8_192,
    path: Path | None = None,
    seeks: int = 300,
    frames: int = 100,
    keys: int = 40,
    seed: int = 0,
    busy: int = 0,
) -> dict[str, Any]:
    """Measure and return figures with their limits.

    Args:
        rows, tokens, entries: size of the made trace.
        path: a trace to use instead of making one; it is kept.
        seeks, frames, keys: how often each is measured.
        seed: of the made trace and of the seeks.
        busy: processes that compute beside all of it, until it is measured; the limits are then
            those under load.
    """
    limits = BUSY_LIMITS if busy else LIMITS
    with tempfile.TemporaryDirectory(prefix="mc-tui-bench-") as folder:
        trace = path or Path(folder) / "made.arrow"
        if path is None:
            make_trace(trace, rows=rows, tokens=tokens, entries=entries, seed=seed)
        with _busy_processes(busy):
            metrics = _open(trace)
            metrics |= asyncio.run(_draw(trace, seeks, frames, seed))
            metrics |= _terminal(trace, Path(folder) / "growing.arrow", keys)
        metrics["busy_processes"] = float(busy)
        metrics["load"] = round(os.getloadavg()[0], 1)
        metrics["trace_mb"] = round(trace.stat().st_size / 1e6, 1)
    met = {name: metrics[name] < limit for name, limit in limits.items()}
    return {"figures": metrics, "limits": limits, "met": met, "ok": all(met.values())}


@contextlib.contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    """``count`` processes that compute and do nothing else, until the context ends.

    Each also ends by itself once its standard input is closed, as it is when this process is
    killed.
    """
    command = [sys.executable, "-c", _BUSY]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()


_BUSY = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
while True:
    sum(range(100_000))
"""


def _percentiles(name: str, seconds: list[float], *ranks: int) -> dict[str, float]:
    ms = np.array(seconds) * 1e3
    return {f"{name}_p{rank}": round(float(np.percentile(ms, rank)), 2) for rank in ranks}


def _open(trace: Path) -> dict[str, float]:
    """Seconds until scalars and heat of all rows are there; the best of three."""
    taken, cpu = [], []
    for _ in range(3):
        start, start_cpu = time.perf_counter(), time.thread_time()
        source = FileSource(trace)
        taken.append(time.perf_counter() - start)
        cpu.append(time.thread_time() - start_cpu)
        source.close()
    return {"open_s": round(min(taken), 3), "open_cpu_s": round(min(cpu), 3)}


async def _draw(trace: Path, seeks: int, frames: int, seed: int) -> dict[str, float]:
    """Seeks to random rows, and frames while playing, each drawn into all panes."""
    source = FileSource(trace)
    app = InspectorApp(source, ticking=False)
    random = np.random.Generator(np.random.Philox(key=seed))
    targets = random.integers(0, source.num_rows, seeks).tolist()
    seek_s, frame_s = [], []
    async with app.run_test(size=(WIDTH, HEIGHT)) as pilot:
        gc.freeze()  # as the command line does before it shows anything

        # Seeks to random rows.
        for row in targets:
            start = time.perf_counter()
            app.session.play(partial(Playback.seek, row=row))
            app.redraw()
            seek_s.append(time.perf_counter() - start)

        # Frames while playing, painted line by line.
        start_row = source.num_rows // 2
        app.session.play(lambda play: play.seek(start_row))
        for _ in range(frames):
            app.session.play(lambda play: play.step(1))
            start = time.perf_counter()
            app.redraw()
            _paint(app)
            frame_s.append(time.perf_counter() - start)
        await pilot.pause()
    source.close()
    return _percentiles("seek_ms", seek_s, 50, 99) | _percentiles("frame_ms", frame_s, 50, 99)


def _paint(app: InspectorApp) -> None:
    """Render every visible line, as the compositor does for a full repaint."""
    for pane in app.panes:
        if pane.display:
            for y in range(pane.size.height):
                pane.render_line(y)


_TIMED_START = """
import gc, sys, time
from pathlib import Path
from megacontext.tui.app import InspectorApp
from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.state.playback import Playback
source = FileSource(Path(sys.argv[1]), mode=sys.argv[2])
app = InspectorApp(source)
gc.freeze()
opened, opened_cpu = time.perf_counter(), time.process_time()
times = []
def note():
    times.extend((time.perf_counter() - opened, time.process_time() - opened_cpu))
    if len(times) == 4:
        note, whole = Path(sys.argv[3]), Path(sys.argv[3] + ".new")
        whole.write_text(" ".join(map(str, times)))
        whole.replace(note)
def painted():
    note()
    complete()
def complete():
    if source.vitals().num_rows < source.num_rows:
        app.set_timer(0.01, complete)
    else:
        app.call_after_refresh(note)
app.call_later(lambda: app.call_after_refresh(painted))
app.run()
"""


def _start(trace: Path, mode: str, note: Path) -> PseudoTerminal:
    """The app on a pseudo-terminal.

    ``note`` gets the seconds from open to the first paint, and to the paint of an overview whose
    lanes are all read; behind each the CPU seconds of the same time.
    """
    command = [sys.executable, "-c", _TIMED_START, str(trace), mode, str(note)]
    return PseudoTerminal.start(command, (WIDTH, HEIGHT))


def _terminal(trace: Path, growing: Path, keys: int) -> dict[str, float]:
    note = growing.with_suffix(".txt")
    terminal = _start(trace, "REPLAY", note)
    try:
        terminal.read_until(b"fixed scale", 30)
        names = ("first_paint_s", "first_paint_cpu_s", "overview_s", "overview_cpu_s")
        seconds = _wait_for(note, terminal)
        metrics = {name: round(s, 3) for name, s in zip(names, seconds, strict=True)}
        for _ in range(20):  # read here and there, as a person does
            terminal.type(b"\x1b[1;2C]f,.")
            time.sleep(0.05)
            terminal.drain()
        metrics["resident_mb"] = round(terminal.resident_mb(), 1)
    finally:
        terminal.stop()
    return metrics | _keys_while_growing(trace, growing, keys)


def _wait_for(note: Path, terminal: PseudoTerminal) -> list[float]:
    for _ in range(3000):
        terminal.drain()  # as a terminal does: a full one would hold the program up
        if note.exists():
            return [float(word) for word in note.read_text().split()]
        time.sleep(0.01)
    raise MegaContextError("the inspector never finished its first paint; run it by hand.")


def _keys_while_growing(trace: Path, growing: Path, keys: int) -> dict[str, float]:
    """Press a key again and again while large rows arrive; time until its effect is painted."""
    processes = multiprocessing.get_context("spawn")  # an engine would be one of its own, too
    stop, started = processes.Event(), processes.Event()
    writer = processes.Process(target=_append, args=(trace, growing, stop, started))
    writer.start()
    started.wait(60)

    # Each key changes words in a title: the time until they are on the terminal.
    terminal = _start(growing, "FOLLOW", growing.with_suffix(".txt"))
    taken = []
    try:
        terminal.read_until(b"fixed scale", 30)
        time.sleep(1.0)
        for press in range(keys):
            terminal.drain()
            terminal.type(b"y")
            expected = b"this step" if press % 2 == 0 else b"fixed scale"
            taken.append(terminal.read_until(expected, 10))
            time.sleep(0.13)
    finally:
        stop.set()
        terminal.stop()
        writer.join()
    return _percentiles("key_to_paint_ms", taken, 50, 95)


def _append(trace: Path, growing: Path, stop: Event, started: Event) -> None:
    """Append the last rows of ``trace`` to ``growing`` at 20 rows/s until told to stop."""
    reader = TraceReader.open(trace)
    first = max(reader.num_rows - 1000, 0)
    with TraceWriter(growing, reader.meta.to_metadata(), flush_rows=8, flush_ms=100) as writer:
        for number in range(first, reader.num_rows):
            writer.put(reader.row(number))
            if number == first + 20:
                writer.flush()
                started.set()
            if number >= first + 20 and stop.wait(1 / ROWS_PER_S):
                break
    started.set()
    reader.close()
