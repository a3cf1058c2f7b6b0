"""The benchmark runs and reports every figure that it promises."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megacontext.traces.errors import MegaContextError
from megacontext.tui.dev import bench_attached as attached
from megacontext.tui.dev.bench import BUSY_LIMITS, LIMITS, _busy_processes, bench


@pytest.mark.slow
def test_a_small_benchmark_reports_all_figures() -> None:
    found = bench(rows=120, tokens=3840, entries=768, seeks=5, frames=5, keys=2)
    assert set(found["met"]) == set(LIMITS)
    assert all(found["figures"][name] > 0 for name in LIMITS)
    assert found["ok"] == all(found["met"].values())


@pytest.mark.slow
def test_under_load_the_limit_is_that_of_a_key() -> None:
    found = bench(rows=120, tokens=3840, entries=768, seeks=5, frames=5, keys=2, busy=1)
    assert set(found["met"]) == set(BUSY_LIMITS)
    assert found["figures"]["busy_processes"] == 1


def children(pid: int) -> set[int]:
    """Process ids of a process's children."""
    return {int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_busy_processes_compute_and_end_with_their_context() -> None:
    before = children(os.getpid())
    with _busy_processes(2):
        busy = children(os.getpid()) - before
        assert len(busy) == 2
        deadline = time.monotonic() + 60
        while not all(cpu_ticks(pid) > 10 for pid in busy):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert children(os.getpid()) <= before

    # Also where what they were started for fails.
    with pytest.raises(ZeroDivisionError), _busy_processes(1):
        raise ZeroDivisionError
    assert children(os.getpid()) <= before


def cpu_ticks(pid: int) -> int:
    """CPU time that a process took, in hundredths of a second."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_busy_processes_end_when_what_started_them_is_killed() -> None:
    code = (
        "import time\nfrom megacontext.tui.dev.bench import _busy_processes\n"
        "with _busy_processes(1):\n    print('ready', flush=True)\n    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    (busy,) = children(parent.pid)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while is_running(busy):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_short_session_is_timed_with_and_without_an_inspector() -> None:
    found = attached.bench(pairs=1, tokens=320, ingest=320, overrides=("device=cpu",))
    figures = found["figures"]
    assert figures["ratio"] == figures["pair_ratios"][0] > 0
    assert figures["headless_engine_cpu_s"] > 0
    assert figures["inspector_cpu_s"] > 0
    assert found["ok"] == (figures["ratio"] >= found["limits"]["ratio"])


def test_an_engine_that_cannot_start_ends_the_benchmark_with_its_sentence() -> None:
    with pytest.raises(MegaContextError, match=r"The engine died .*no_such_key"):
        attached.bench(pairs=1, overrides=("no_such_key=1",))
