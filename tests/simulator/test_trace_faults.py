"""An I/O error at every single call of a trace's life: a sentence, never a bare ``OSError``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megacontext.simulator.config import WorldConfig
from megacontext.simulator.faults import At, SimDisk
from megacontext.simulator.faults.eio import does_io, io_error
from megacontext.simulator.recording import metadata
from megacontext.traces.errors import TraceError
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import TraceRow
from megacontext.traces.writer import TraceWriter

PATH = Path("/sim/t.arrow")


def write(disk: SimDisk) -> None:
    with TraceWriter(PATH, metadata(WorldConfig()), files=disk, threaded=False) as writer:
        for step in range(20):
            levels = np.zeros(1, np.int8)
            writer.put(
                TraceRow(step=step, history_tokens=8, levels=levels, budget_used=8, w_max=128)
            )


def read(disk: SimDisk) -> None:
    with TraceReader.open(PATH, disk) as reader:
        reader.check()
        assert len(list(reader.rows())) == 20


def sweep(life: str) -> set[str]:
    """Types of the errors that reach the user, over every call of writing or reading."""
    found = set()
    for nth in range(1, 500):
        disk = SimDisk()
        if life == "read":
            write(disk)
        hook = At(nth, does_io, io_error)
        disk.hooks.append(hook)
        try:
            (write if life == "write" else read)(disk)
        except TraceError:
            found.add("TraceError")
        except OSError as error:
            found.add(f"{type(error).__name__} at call {nth}")
        if hook.nth > 0:
            assert nth > 3
            return found
    raise AssertionError("the sweep never ended")


@pytest.mark.parametrize("life", ["write", "read"])
def test_an_io_error_at_any_call_of_a_trace_is_a_sentence(life: str) -> None:
    assert sweep(life) <= {"TraceError"}
