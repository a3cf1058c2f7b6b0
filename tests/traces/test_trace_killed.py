"""A writer that is killed: every whole batch survives."""

import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from megacontext.traces.reader import TraceReader
from megacontext.traces.writer import TraceWriter

_CHILD = """
import sys
from pathlib import Path
import numpy as np
from megacontext.traces.row import TraceRow
from megacontext.traces.row import heat_of
from megacontext.traces.schema import schema
from megacontext.traces.writer import TraceWriter
writer = TraceWriter(Path(sys.argv[1]), {"mc.block_size": "4", "mc.w_max": "9", "mc.levels": "2"})
print("ready", flush=True)
step = 0
while True:
    scores = np.random.default_rng(step).uniform(-1, 1, 500).astype(np.float16)
    writer.put(TraceRow(step=step, history_tokens=2_000, levels=np.ones(500, np.int8),
                        scores=scores, budget_used=1, w_max=9))
    step += 1
    if step % 50 == 0:
        writer.flush()
"""


def _kill_a_writer(path, bytes_before_the_kill):
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(path)], stdout=subprocess.PIPE, env=os.environ
    )
    try:
        assert child.stdout.readline() == b"ready\n"
        while path.stat().st_size < bytes_before_the_kill:
            assert child.poll() is None
        with TraceReader.open(path) as reader:
            assert reader.being_written()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()


def _check_the_survivor(path, meta):
    with TraceReader.open(path) as reader:
        assert not reader.finished
        assert not reader.being_written()
        assert reader.check() == []
        assert [row.step for row in reader.rows()] == list(range(reader.num_rows))
        whole = reader.num_rows
    with pa.OSFile(str(path)) as file:  # the documented way for other readers
        file.seek(8)
        stream = pa.ipc.open_stream(file)
        rows = 0
        try:
            for batch in stream:
                rows += batch.num_rows
        except (pa.ArrowInvalid, OSError):
            pass
    assert rows == whole
    TraceWriter(path, meta, prefix=path).close()  # the lock died with its process
    with TraceReader.open(path) as reader:
        assert reader.finished
        assert reader.num_rows == whole


@pytest.mark.parametrize("size", [0, 40_000, 170_001])
def test_every_whole_batch_survives_sigkill(tmp_path, meta, size):
    path = tmp_path / "run.arrow"
    _kill_a_writer(path, size)
    _check_the_survivor(path, meta)


@pytest.mark.slow
def test_every_whole_batch_survives_fifty_sigkills(tmp_path, meta):
    sizes = np.random.default_rng(0).integers(0, 2_000_000, 50)
    for number, size in enumerate(sizes.tolist()):
        path = tmp_path / f"run{number}.arrow"
        _kill_a_writer(path, size)
        _check_the_survivor(path, meta)
