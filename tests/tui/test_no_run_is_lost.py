"""A recorded run stays what it was: under kills, reloads, two engines on one name, a full disk.

The same promises of ``megacontext run`` and ``batch`` are tested in
``tests/core/cli/test_no_run_is_lost.py``, those of the file layer in ``tests/traces``.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megacontext.traces.errors import LockedError
from megacontext.traces.reader import TraceReader
from megacontext.traces.synthetic import make_small_trace
from megacontext.traces.target import claim
from megacontext.tui.dev.pseudo_terminal import PseudoTerminal
from megacontext.tui.live.connect import Start, start_engine

WRITE = """
import sys, signal
from pathlib import Path
from megacontext.traces.synthetic import SyntheticRun
from megacontext.traces.meta import TraceMeta
from megacontext.traces.target import claim
from megacontext.traces.writer import TraceWriter
path, rows = Path(sys.argv[1]), int(sys.argv[2])
taken = claim(path, overwrite=True)
meta = TraceMeta(block_size=8, w_max=160, levels=3).to_metadata()
writer = TraceWriter(path, meta, flush_rows=1, lock=taken.lock)
made = SyntheticRun(tokens=640, w_max=160, block_size=8, seed=9).rows()
for _ in range(rows):
    writer.put(next(made))
if rows:
    writer.flush()
print("ready", flush=True)
signal.pause()
"""
"""A run that replaces the trace at argv[1], stops after argv[2] rows and waits to be killed."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "run.arrow"
    make_small_trace(path, rows=30)
    return path


def killed_after(path: Path, rows: int) -> None:
    """Let a run replace ``path``, with --overwrite, and kill it after ``rows`` rows."""
    run = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(path), str(rows)], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGKILL)
    run.communicate()


def test_a_kill_before_the_first_row_leaves_the_older_run_even_with_overwrite(old: Path) -> None:
    before = old.read_bytes()
    killed_after(old, 0)
    assert old.read_bytes() == before


def test_a_kill_later_leaves_the_new_runs_rows(old: Path) -> None:
    killed_after(old, 5)
    with TraceReader.open(old) as reader:
        assert reader.num_rows == 5
        assert reader.check() == []


def test_a_killed_run_locks_nobody_out(old: Path) -> None:
    killed_after(old, 2)
    claim(old, overwrite=True).release()


def test_a_tab_that_is_reloaded_ends_neither_the_engine_nor_its_trace(old: Path) -> None:
    engine = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(old), "12"], stdout=subprocess.PIPE, text=True
    )
    assert engine.stdout is not None
    assert engine.stdout.readline() == "ready\n"
    before = old.read_bytes()
    attach = [sys.executable, "-m", "megacontext.tui.cli", "live", "--attach", str(old)]
    state = {"XDG_STATE_HOME": str(old.parent)}
    try:
        for _ in range(2):  # what a reload does: the first tab's process is killed
            tab = PseudoTerminal.start(attach, (80, 24), state)
            assert b"LIVE" in tab.read_through(b"LIVE", 60)
            tab.stop()
        assert engine.poll() is None
        assert old.read_bytes() == before
    finally:
        engine.kill()
        engine.communicate()


def test_a_second_engine_on_one_name_is_refused_before_it_touches_anything(
    old: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("seed: 0\n")
    with claim(old, overwrite=True):
        before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
        with pytest.raises(LockedError, match="--attach"):
            start_engine(Start(config, old, overwrite=True))
        assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before
