"""Cut and damaged traces: whole batches stay readable, damaged rows are named."""

import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_arrow import read_plain, write_plain

from megacontext.traces.errors import TraceError
from megacontext.traces.overview import OverviewBuilder
from megacontext.traces.reader import TraceReader


def _check_cut(tmp_path, raw, ends, size):
    path = tmp_path / "cut.arrow"
    path.write_bytes(raw[:size])
    with TraceReader.open(path) as reader:
        assert reader.num_rows == 2 * sum(end <= size for end in ends)
        assert reader.finished == (size >= ends[-1] + 8)
        assert [row.step for row in reader.rows()] == list(range(reader.num_rows))
        assert reader.gaps == []
        assert reader.overview().num_rows == reader.num_rows


@pytest.mark.parametrize("stride", [97, pytest.param(1, marks=pytest.mark.slow)])
def test_a_cut_anywhere_keeps_every_whole_batch(tmp_path, write, stride):
    path = write(8, flush_rows=2)
    raw = path.read_bytes()
    with TraceReader.open(path) as reader:
        first = reader._blocks[0].offset
        ends = [block.offset + block.length for block in reader._blocks]
    for size in range(first, len(raw) + 1, stride):
        _check_cut(tmp_path, raw, ends, size)
    for size in range(0, first, stride):
        (tmp_path / "cut.arrow").write_bytes(raw[:size])
        with pytest.raises(TraceError):
            TraceReader.open(tmp_path / "cut.arrow")


def test_a_changed_value_is_found_by_its_crc_and_names_its_step(tmp_path, write):
    table = read_plain(write(10))
    steps = table["budget_used"].to_pylist()
    steps[6] += 1
    at = table.schema.get_field_index("budget_used")
    column = pa.chunked_array([pa.array(steps, pa.uint32())])
    table = table.set_column(at, table.schema.field(at), column)
    write_plain(tmp_path / "changed.arrow", table)
    with TraceReader.open(tmp_path / "changed.arrow") as reader:
        with pytest.raises(TraceError, match=r"row 6 \(step 6, round 0\).*damaged"):
            reader.row(6)
        assert reader.row(6, check=False).budget_used == 7
        assert [d.start for d in reader.check()] == [6]
        assert [reader.row(i).step for i in (5, 7, 9)] == [5, 7, 9]


@pytest.mark.parametrize("row", [0, 6, 9])
@pytest.mark.parametrize("bit", [3, 47, 62, 63])
def test_a_flipped_token_count_does_not_ask_for_more_tokens_than_there_are(
    tmp_path, write, row, bit
):
    table = read_plain(write(10))
    true = np.array(table["history_tokens"].to_pylist(), np.uint64)
    flipped = true.copy()
    flipped[row] ^= np.uint64(1 << bit)
    at = table.schema.get_field_index("history_tokens")
    table = table.set_column(at, table.schema.field(at), pa.chunked_array([pa.array(flipped)]))
    write_plain(tmp_path / "flipped.arrow", table)

    with TraceReader.open(tmp_path / "flipped.arrow") as reader:
        history = reader.overview().history_tokens
        assert [damage.start for damage in reader.check()] == [row]
        assert (np.diff(history) >= 0).all()
        others = np.arange(10) != row
        np.testing.assert_array_equal(history[others], true[others].astype(np.int64))
        if bit > 20:
            assert history[row] == (history[row - 1] if row else 0)

        # All its text, as the inspector asks for it; a token of a sound row is where it was.
        end = int(history[-1])
        pieces, nll = reader.text_of(0, end), reader.nll_of(0, end)
        assert len(pieces) == len(nll) == end <= true[-1]
        assert pieces[8:12] == ["w2.0 ", "w2.1 ", "w2.2 ", "w2.3 "]


def test_a_token_count_repaired_when_later_rows_came_is_another_snapshot():
    history = pa.array([4, 8 + 64, 12, 16], pa.uint64())
    table = pa.table({"step": pa.array(range(4), pa.uint32()), "history_tokens": history})
    builder = OverviewBuilder(("step", "history_tokens"), is_sound=lambda row: row != 1)
    builder.extend(table.slice(0, 2))
    builder.repair_history(0)
    before = builder.overview()
    builder.extend(table.slice(2))
    builder.repair_history(2)
    assert builder.overview().history_tokens.tolist() == [4, 4, 12, 16]
    assert before.history_tokens.tolist() == [4, 72]


def _damage(path, block, what):
    raw = bytearray(path.read_bytes())
    with TraceReader.open(path) as reader:
        where = reader._blocks[block]
    if what == "body":
        raw[where.offset + where.length - 1_200 : where.offset + where.length - 300] = bytes(900)
    elif what == "length":
        raw[where.offset + 4 : where.offset + 8] = b"\xff\xff\xff\x7f"
    elif what == "metadata":
        raw[where.offset + 8 : where.offset + 200] = bytes(192)
    elif what == "marker":
        raw[where.offset : where.offset + 4] = b"\0\0\0\0"
    path.write_bytes(raw)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("what", ["length", "metadata", "marker"])
def test_a_batch_that_lost_its_frame_is_skipped(write, what, cut):
    path = write(40)
    _damage(path, 2, what)
    if cut:
        path.write_bytes(path.read_bytes()[:-10])  # no footer to go by
    with TraceReader.open(path) as reader:
        assert len(reader.gaps) == 1
        steps = [row.step for row in reader.rows()]
        assert steps == [*range(16), *range(24, 40)]
        assert reader.finished  # the footer, or the end-of-stream mark before it
        assert reader.overview().step.tolist() == steps


def test_a_damaged_body_names_its_steps_and_the_others_stay_readable(write):
    path = write(40)
    _damage(path, 2, "body")
    with TraceReader.open(path) as reader:
        with pytest.raises(TraceError, match=r"rows 16 to 23.*are damaged"):
            reader.row(17)
        result = reader.check()
        assert [(d.start, d.stop) for d in result] == [(16, 24)]
        assert "steps 16 to 23" in result[0].message
        for i in (0, 15, 24, 39):
            assert reader.row(i).step == i
        overview = reader.overview()
        assert overview.num_rows == 40
        assert overview.step[24:].tolist() == list(range(24, 40))


def test_text_that_only_meets_across_lost_rows_is_not_found(write):
    path = write(40)
    _damage(path, 2, "marker")
    with TraceReader.open(path) as reader:
        assert reader.find("w15.3 ") == (63, 64)
        assert reader.find("w15.3 w24.0") is None
        assert reader.find("w24.0") == (96, 97)


def test_offsets_beyond_their_data_are_refused_before_they_are_followed(tmp_path, write):
    write_plain(tmp_path / "raw.arrow", read_plain(write(8)))
    raw = (tmp_path / "raw.arrow").read_bytes()
    offsets = struct.pack("<5i", 0, 5, 10, 15, 20)  # of new_text: pieces of 5 bytes
    assert raw.count(offsets) == 1
    far = struct.pack("<5i", 0, 5, 10, 15, 1 << 30)
    (tmp_path / "raw.arrow").write_bytes(raw.replace(offsets, far))
    with TraceReader.open(tmp_path / "raw.arrow") as reader:
        with pytest.raises(TraceError, match=r"rows 0 to 7 \(steps 0 to 7\).*are damaged"):
            reader.row(0)
        assert reader.find("w1") is None
        assert reader.text_of(0, 2) == ["", ""]
        assert reader.overview().step.tolist() == list(range(8))


@settings(max_examples=60)
@given(data=st.data())
def test_no_flipped_byte_crashes_the_reader_or_changes_a_row_unseen(
    tmp_path_factory, small_trace, data
):
    raw = bytearray(small_trace.read_bytes()[:60_000])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("flip") / "flip.arrow"
    path.write_bytes(raw)
    try:
        reader = TraceReader.open(path)
    except TraceError:
        return
    with reader, TraceReader.open(small_trace) as whole:
        overview = reader.overview()
        assert overview.num_rows == reader.num_rows
        reader.find("needle")
        steps = {row.step * 4 + row.round: row for row in whole.rows(0, 80)}
        for i in range(reader.num_rows):
            try:
                row = reader.row(i)
            except TraceError as error:
                assert "\n" not in str(error)  # noqa: PT017
                continue
            assert row.crc == steps[row.step * 4 + row.round].crc
