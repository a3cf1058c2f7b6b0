import errno
import fcntl
import threading

import numpy as np
import pyarrow as pa
import pytest

from megacontext.traces.errors import LockedError, TraceError
from megacontext.traces.files import OS_FILES, OsFiles
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import heat_of
from megacontext.traces.schema import schema
from megacontext.traces.writer import TraceWriter, stored_scores


class _CountingHandle:
    """Counts writes and may refuse them from some byte on, or hold them back."""

    def __init__(self, layer, inner):
        self._layer, self._inner = layer, inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def pwrite(self, offset, data):
        self._layer.gate.wait()
        self._layer.writes += 1
        if offset + len(data) > self._layer.capacity:
            self._inner.pwrite(offset, data[: max(0, self._layer.capacity - offset)])
            raise OSError(errno.ENOSPC, "No space left on device")
        self._inner.pwrite(offset, data)


class _Files(OsFiles):
    def __init__(self, capacity=1 << 40):
        self.capacity, self.writes = capacity, 0
        self.gate = threading.Event()
        self.gate.set()

    def open(self, path, *, write=False, create=False):
        return _CountingHandle(self, super().open(path, write=write, create=create))


@pytest.mark.parametrize("rows", [0, 1, 8, 37])
@pytest.mark.parametrize("threaded", [False, True])
def test_any_number_of_rows_comes_back(tmp_path, meta, arbitrary_row, same_row, rows, threaded):
    path = tmp_path / "run.arrow"
    with TraceWriter(path, meta, threaded=threaded) as writer:
        for step in range(rows):
            writer.put(arbitrary_row(step))
    assert writer.rows_written == rows
    with TraceReader.open(path) as reader:
        assert reader.finished
        assert reader.num_rows == rows
        for step, row in enumerate(reader.rows()):
            assert same_row(row, arbitrary_row(step), but=("heat", "crc"))
            assert row.heat.shape == (256,)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.arrow"]


def test_a_finished_trace_opens_with_plain_pyarrow(write, arbitrary_row):
    with pa.OSFile(str(write(20))) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table["step"].to_pylist() == list(range(20))
    assert table["scores"][9].as_py() == arbitrary_row(9).scores.tolist()
    assert table.schema.metadata[b"mc.trace.version"] == b"1"
    assert table.schema.metadata[b"mc.scores"] == b"f16"


def test_each_batch_is_one_write(tmp_path, meta, arbitrary_row):
    files = _Files()
    writer = TraceWriter(tmp_path / "run.arrow", meta, threaded=False, files=files, flush_rows=4)
    assert files.writes == 1  # the schema
    for step in range(12):
        writer.put(arbitrary_row(step))
    assert files.writes == 4
    writer.close()
    assert files.writes == 5


def test_a_row_is_copied_when_it_is_put(tmp_path, meta, arbitrary_row, same_row):
    path = tmp_path / "run.arrow"
    with TraceWriter(path, meta) as writer:
        row = arbitrary_row(1)
        writer.put(row)
        row.levels[:] = 9
        row.scores[:] = 9
        row.actions["index"] = 9
    with TraceReader.open(path) as reader:
        assert same_row(reader.row(0), arbitrary_row(1), but=("heat", "crc"))


def test_a_waiting_row_is_flushed_after_its_time(tmp_path, meta, arbitrary_row):
    with TraceWriter(tmp_path / "run.arrow", meta, flush_ms=1, flush_rows=1000) as writer:
        writer.put(arbitrary_row(0))
        with TraceReader.open(tmp_path / "run.arrow") as reader:
            while not reader.refresh():
                assert writer.error is None
            assert reader.row(0).step == 0


def test_flush_makes_every_row_visible(tmp_path, meta, arbitrary_row):
    with TraceWriter(tmp_path / "run.arrow", meta, flush_ms=1e9, flush_rows=1000) as writer:
        for step in range(3):
            writer.put(arbitrary_row(step))
        writer.flush()
        with TraceReader.open(tmp_path / "run.arrow") as reader:
            assert reader.num_rows == 3


def test_a_full_queue_drops_scores_and_nothing_else(tmp_path, meta, arbitrary_row, same_row):
    files, path = _Files(), tmp_path / "run.arrow"
    writer = TraceWriter(path, meta, files=files, queue_rows=4, flush_rows=1)
    files.gate.clear()  # the disk stalls
    for step in range(40):
        writer.put(arbitrary_row(step))  # must return all the same
    files.gate.set()
    writer.close()
    assert 30 <= writer.scores_dropped <= 36
    with TraceReader.open(path) as reader:
        rows = list(reader.rows())
    assert [row.step for row in rows] == list(range(40))
    assert rows[-1].scores_dropped == writer.scores_dropped
    assert sum(row.scores is None for row in rows) == writer.scores_dropped
    assert np.all(np.diff([row.scores_dropped for row in rows]) >= 0)
    for row in rows:
        want = arbitrary_row(row.step)
        assert same_row(row, want, but=("heat", "crc", "scores", "scores_dropped"))
        heat = heat_of(want.scores, want.levels, 4, want.history_tokens)
        assert (row.heat == heat).all()  # computed from the scores before they went


def test_a_full_disk_is_one_sentence_and_keeps_whole_batches(tmp_path, meta, arbitrary_row):
    files, path = _Files(capacity=30_000), tmp_path / "run.arrow"
    writer = TraceWriter(path, meta, files=files, flush_rows=1)

    def fill():
        for step in range(100_000):
            writer.put(arbitrary_row(step))

    with pytest.raises(TraceError, match="No space left") as caught:
        fill()
    assert "\n" not in str(caught.value)
    with pytest.raises(TraceError, match="No space left"):
        writer.close()
    writer.close()  # once is enough
    with TraceReader.open(path) as reader:
        assert not reader.finished
        assert reader.num_rows == writer.rows_written > 0
        assert reader.tail_bytes == 0  # cut back to whole batches
        assert reader.check() == []
    TraceWriter(path, meta).close()  # the lock was released


def test_a_full_disk_at_the_start_leaves_the_old_trace_alone(write, meta):
    path = write(5)
    before = path.read_bytes()
    with pytest.raises(TraceError, match="No space left"):
        TraceWriter(path, meta, files=_Files(capacity=100))
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["run.arrow"]


def test_a_disk_that_fills_with_the_first_row_leaves_the_old_trace_alone(
    write, meta, arbitrary_row, tmp_path
):
    path = write(5)
    before = path.read_bytes()
    with TraceWriter(tmp_path / "empty.arrow", meta):
        head = (tmp_path / "empty.arrow").stat().st_size  # no row, no footer yet
    (tmp_path / "empty.arrow").unlink()
    with (
        pytest.raises(TraceError, match="No space left"),
        TraceWriter(path, meta, files=_Files(capacity=head + 64), flush_rows=1) as writer,
    ):
        writer.put(arbitrary_row(0))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_error_in_the_body_is_not_hidden_by_the_full_disk(tmp_path, meta, arbitrary_row):
    files = _Files(capacity=9_000)
    writer = TraceWriter(tmp_path / "run.arrow", meta, files=files, flush_rows=1)

    def fail():
        with writer:
            writer.put(arbitrary_row(0))
            raise KeyError("first")

    with pytest.raises(KeyError) as caught:
        fail()
    assert "No space left" in caught.value.__notes__[0]


def test_a_second_writer_is_refused(tmp_path, meta):
    path = tmp_path / "run.arrow"
    with TraceWriter(path, meta), pytest.raises(LockedError, match=r"run\.arrow is being written"):
        TraceWriter(path, meta)
    TraceWriter(path, meta).close()


def test_an_older_trace_stays_until_the_new_one_has_rows(write, meta, arbitrary_row):
    path = write(5)
    with TraceReader.open(path) as old, TraceWriter(path, meta) as writer:
        with TraceReader.open(path) as still:
            assert still.num_rows == 5
        writer.put(arbitrary_row(0))
        writer.flush()
        with TraceReader.open(path) as new:
            assert new.num_rows == 1
        assert old.row(4).step == 4  # an open reader keeps the old file


def test_a_run_that_dies_before_its_first_row_does_not_cost_the_older_trace(write, meta):
    path = write(5)
    with pytest.raises(ZeroDivisionError), TraceWriter(path, meta):
        raise ZeroDivisionError
    with TraceReader.open(path) as old:
        assert old.num_rows == 5
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with TraceWriter(path, meta):
        pass
    with TraceReader.open(path) as empty:
        assert (empty.num_rows, empty.finished) == (0, True)


def test_a_link_is_followed_and_stays_a_link(tmp_path, meta, arbitrary_row):
    (tmp_path / "big").mkdir()
    link = tmp_path / "run.arrow"
    link.symlink_to(tmp_path / "big" / "real.arrow")
    with TraceWriter(link, meta) as writer:
        writer.put(arbitrary_row(0))
        writer.flush()
        with TraceReader.open(link) as growing:
            assert growing.being_written()
    assert link.is_symlink()
    with TraceReader.open(tmp_path / "big" / "real.arrow") as real:
        assert real.num_rows == 1


def test_a_row_after_close_is_refused(tmp_path, meta, arbitrary_row):
    writer = TraceWriter(tmp_path / "run.arrow", meta)
    writer.close()
    with pytest.raises(TraceError, match="is closed"):
        writer.put(arbitrary_row(0))


def test_an_unwritable_place_is_one_sentence(tmp_path, meta):
    with pytest.raises(TraceError, match="is no file"):
        TraceWriter(tmp_path, meta)
    (tmp_path / "file").write_text("x")
    with pytest.raises(TraceError, match="cannot be written"):
        TraceWriter(tmp_path / "file" / "run.arrow", meta)


def test_wrong_options_name_field_and_value(tmp_path, meta):
    with pytest.raises(TraceError, match="scores = 'f32'"):
        TraceWriter(tmp_path / "a", meta, scores="f32")
    with pytest.raises(TraceError, match=r"mc\.block_size"):
        TraceWriter(tmp_path / "a", {})
    with pytest.raises(TraceError, match="queue_rows = 0"):
        TraceWriter(tmp_path / "a", meta, queue_rows=0)


def test_scores_that_do_not_fit_the_frontier_fail_the_writer(tmp_path, meta, arbitrary_row):
    row = arbitrary_row(0)
    row.scores = row.scores[:-1]
    writer = TraceWriter(tmp_path / "run.arrow", meta, threaded=False)
    writer.put(row)
    with pytest.raises(TraceError, match="one score per node"):
        writer.close()


# ---------------------------------------------------------------- score modes


def test_nan_and_infinite_scores_are_stored_as_they_are(tmp_path, meta, arbitrary_row):
    row = arbitrary_row(0)
    row.scores[:4] = [np.nan, np.inf, -np.inf, -0.0]
    with TraceWriter(tmp_path / "run.arrow", meta) as writer:
        writer.put(row)
    with TraceReader.open(tmp_path / "run.arrow") as reader:
        assert reader.row(0).scores.tobytes() == row.scores.tobytes()


def test_score_modes_are_recorded_and_keep_what_they_promise(write, arbitrary_row):
    for mode, said in (("u8", "u8"), ("topk", "topk:3"), ("none", "none")):
        with TraceReader.open(write(4, f"{mode}.arrow", scores=mode, top_k=3)) as reader:
            assert reader.meta.scores == said
            row, full = reader.row(3), arbitrary_row(3).scores.astype(np.float32)
            assert (row.heat != 128).any()
            if mode == "none":
                assert row.scores is None
                assert row.scores_dropped == 0
            elif mode == "u8":
                assert np.abs(row.scores - full).max() < 1 / 255 + 1e-3
            else:
                kept = np.flatnonzero(~np.isnan(row.scores))
                assert sorted(kept) == sorted(np.argsort(-np.abs(full), kind="stable")[:3])


def test_u8_storage_is_stable_and_has_256_values():
    scores = np.linspace(-1, 1, 5_001).astype(np.float16)
    once = stored_scores(scores, "u8")
    assert (stored_scores(once, "u8") == once).all()
    assert len(set(once.tolist())) == 256


# ---------------------------------------------------------------- prefix (resume)


def test_a_prefix_is_kept_and_swapped_in_at_once(write, meta, arbitrary_row, same_row):
    path = write(20)
    path.write_bytes(path.read_bytes()[:-12_000])  # a crash cut it
    with TraceReader.open(path) as cut:
        kept = cut.num_rows
    assert 0 < kept < 20
    with TraceWriter(path, meta, prefix=path, threaded=False) as writer:
        assert writer.rows_written == kept
        writer.put(arbitrary_row(kept))
    with TraceReader.open(path) as reader:
        assert reader.finished
        assert reader.num_rows == kept + 1
        assert reader.check() == []
        for step, row in enumerate(reader.rows()):
            assert same_row(row, arbitrary_row(step), but=("heat", "crc"))


def test_a_prefix_can_be_shortened(write, meta):
    path = write(20)
    TraceWriter(path, meta, prefix=path, prefix_rows=11).close()
    with TraceReader.open(path) as reader:
        assert [row.step for row in reader.rows()] == list(range(11))
        assert reader.check() == []


def test_a_prefix_with_other_columns_becomes_a_trace_of_this_version(write, meta, tmp_path):
    with pa.OSFile(str(write(20))) as file:
        table = pa.ipc.open_file(file).read_all()
    table = table.drop_columns(["knobs"]).append_column("later", pa.array(range(20)))
    path = tmp_path / "other.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=8)
    TraceWriter(path, meta, prefix=path, prefix_rows=19).close()
    with TraceReader.open(path) as reader:
        assert reader.schema.names == schema().names
        assert [row.step for row in reader.rows()] == list(range(19))
        assert reader.check() == []


def test_a_broken_prefix_leaves_the_file_alone(write, meta):
    path = write(20)
    raw = bytearray(path.read_bytes())
    with TraceReader.open(path) as reader:
        block = reader._blocks[1]
    raw[block.offset + block.length - 900 : block.offset + block.length - 500] = bytes(400)
    path.write_bytes(raw)
    with pytest.raises(TraceError, match="damaged"):
        TraceWriter(path, meta, prefix=path)
    assert path.read_bytes() == raw


def test_a_lock_on_a_file_that_lost_its_name_is_not_enough(tmp_path, monkeypatch):
    path, real, raced = tmp_path / "x.lock", fcntl.flock, []

    def flock(fd, operation):
        if not raced:  # the holder closes between our open and our flock
            raced.append(fd)
            path.unlink()
        real(fd, operation)

    monkeypatch.setattr("megacontext.traces.files.fcntl.flock", flock)
    lock = OS_FILES.lock(path)
    assert raced
    with pytest.raises(LockedError):
        OS_FILES.lock(path)
    lock.release()
    OS_FILES.lock(path).release()
