import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from megacontext.traces.errors import TraceError
from megacontext.traces.row import (
    ACTION_DTYPE,
    REJECTED_DTYPE,
    BatchColumns,
    TraceRow,
    batch_of,
    crc_of,
    heat_of,
    list_values,
)
from megacontext.traces.schema import schema

_HEAT = np.arange(256, dtype=np.uint8)


def _array(dtype, limit=12):
    return hnp.arrays(dtype, st.integers(0, limit))


def _records(dtype, limit=4):
    return st.binary(min_size=0, max_size=limit * dtype.itemsize).map(
        lambda raw: _records_of(raw, dtype)
    )


def _records_of(raw, dtype):
    records = np.frombuffer(raw[: len(raw) // dtype.itemsize * dtype.itemsize], dtype).copy()
    if "forced" in (dtype.names or ()):
        records["forced"] = records["forced"].view(np.uint8) % 2 == 1
    return records


_rows = st.builds(
    TraceRow,
    step=st.integers(0, 2**32 - 1),
    round=st.integers(0, 255),
    t_ns=st.integers(-(2**63), 2**63 - 1),
    phase=st.integers(0, 1),
    history_tokens=st.integers(0, 2**64 - 1),
    tail_tokens=st.integers(0, 2**16 - 1),
    new_tokens=_array(np.uint32),
    new_text=st.lists(st.text(max_size=6), max_size=5),
    new_nll=hnp.arrays(np.float32, st.integers(0, 9), elements=st.floats(width=32)),
    appended_levels=_array(np.int8),
    levels=_array(np.int8),
    scores=st.none() | hnp.arrays(np.float16, st.integers(0, 9), elements=st.floats(width=16)),
    actions=_records(ACTION_DTYPE),
    rejected=_records(REJECTED_DTYPE),
    budget_used=st.integers(0, 2**32 - 1),
    w_max=st.integers(0, 2**32 - 1),
    heat=st.just(_HEAT),
    kv_drift=st.none() | st.floats(width=32),
    us_lens=st.floats(width=32),
    marker=st.none() | st.text(max_size=6),
    trigger=st.integers(0, 6),
    knobs=st.none() | st.text(max_size=6),
)


@settings(max_examples=80)
@given(st.lists(_rows, max_size=4))
def test_rows_survive_the_batch_and_keep_their_crc(rows):
    batch = batch_of(rows, schema())
    batch.validate(full=True)
    columns = BatchColumns(batch)
    for j, row in enumerate(rows):
        back = columns.row(j)
        assert back.crc == crc_of(row) == crc_of(back)
        assert (back.scores is None) == (row.scores is None)
        assert back.actions.tobytes() == row.actions.tobytes()
        assert back.new_text == row.new_text


def test_a_batch_equals_what_plain_pyarrow_reads(arbitrary_row):
    row = arbitrary_row(4)
    row.heat = _HEAT
    batch = batch_of([row], schema())
    plain = batch.to_pylist()[0]
    assert plain["scores"] == row.scores.tolist()
    assert plain["levels"] == row.levels.tolist()
    assert plain["new_text"] == row.new_text
    assert plain["actions"][0]["index"] == 2**60 + 4
    assert plain["actions"][0]["forced"] is False
    assert plain["kv_drift"] == 0.5
    assert plain["delta_nll"] is None
    assert pa.types.is_float16(batch.schema.field("scores").type.value_type)


@pytest.mark.parametrize("field", [f.name for f in schema() if f.name != "crc"])
def test_the_crc_covers_every_column(field, arbitrary_row):
    row = arbitrary_row(5)
    row.heat = _HEAT.copy()
    before = crc_of(row)
    value = getattr(row, field)
    if isinstance(value, np.ndarray):
        changed = value.copy() if len(value) else np.zeros(1, value.dtype)
        raw = changed.view(np.uint8)
        raw[-1] ^= 1
        value = changed
    elif isinstance(value, list):
        value = [*value[:-1], value[-1] + "x"]
    elif isinstance(value, str):
        value = value + "x"
    else:
        value = 1 if value is None or value == 0 else value + 1
        value = "1" if field == "knobs" else value
    setattr(row, field, value)
    assert crc_of(row) != before


@pytest.mark.parametrize(
    ("offsets", "expected"), [([2, 2, 3, 4], [3, 4]), ([0, 1, 1, 3], [1, 2, 3])]
)
def test_values_that_belong_to_no_row_are_left_out(offsets, expected):
    values = pa.array([1, 2, 3, 4], pa.float32())
    flat, starts = list_values(
        pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values), "new_nll"
    )
    assert flat.tolist() == expected
    assert starts.tolist() == [offset - offsets[0] for offset in offsets]


def test_the_crc_tells_an_absent_value_from_an_empty_one(arbitrary_row):
    row = arbitrary_row(1)
    row.heat = _HEAT
    row.scores = None
    absent = crc_of(row)
    row.scores = np.empty(0, np.float16)
    assert crc_of(row) != absent


def test_the_crc_of_a_known_row_never_changes():
    row = TraceRow(step=1, history_tokens=2, budget_used=3, w_max=4, heat=_HEAT)
    row.levels = np.array([0, 1], np.int8)
    row.scores = np.array([0.5, np.nan], np.float16)
    row.new_text = ["é"]
    assert crc_of(row) == 1410135430


def _crc_by_the_book(row):
    """The CRC as docs/formats.md words it, with struct and loops."""
    out = struct.pack(
        "<IBqbQHIIIbffffffIb",
        *(row.step, row.round, row.t_ns, row.phase, row.history_tokens, row.tail_tokens),
        *(row.budget_used, row.w_max, row.kv_rows, row.kv_mode),
        *(row.us_gist, row.us_lens, row.us_alloc, row.us_kv, row.us_decode, row.us_record),
        *(row.scores_dropped, row.trigger),
    )
    for value in (row.kv_drift, row.delta_nll):
        out += b"\0" if value is None else b"\1" + struct.pack("<f", value)
    for code, values in (
        ("I", row.new_tokens),
        ("f", row.new_nll),
        ("b", row.appended_levels),
        ("b", row.levels),
    ):
        out += struct.pack(f"<I{len(values)}{code}", len(values), *values.tolist())
    for code, records in (("<bbQei?b", row.actions), ("<bbQeb", row.rejected)):
        out += struct.pack("<I", len(records))
        out += b"".join(struct.pack(code, *record) for record in records.tolist())
    out += b"\0" if row.scores is None else b"\1" + struct.pack("<I", len(row.scores))
    out += b"" if row.scores is None else struct.pack(f"<{len(row.scores)}e", *row.scores.tolist())
    out += bytes(row.heat.tolist())
    texts = [text.encode() for text in row.new_text]
    out += struct.pack(f"<I{len(texts)}I", len(texts), *map(len, texts)) + b"".join(texts)
    for text in (row.marker, row.knobs):
        raw = b"" if text is None else text.encode()
        out += b"\0" if text is None else b"\1" + struct.pack("<I", len(raw)) + raw
    return zlib.crc32(out)


@pytest.mark.parametrize("step", range(8))
def test_the_crc_follows_the_documented_byte_order(step, arbitrary_row):
    row = arbitrary_row(step)
    row.heat = _HEAT
    assert crc_of(row) == _crc_by_the_book(row)


def test_a_lone_surrogate_in_the_text_is_replaced(arbitrary_row):
    row = arbitrary_row(1)
    row.heat, row.new_text = _HEAT, ["ok", "\ud800"]
    back = BatchColumns(batch_of([row], schema())).row(0)
    assert back.new_text == ["ok", "?"]
    assert back.crc == crc_of(back)


def test_a_heat_of_the_wrong_length_is_refused(arbitrary_row):
    row = arbitrary_row(1)
    with pytest.raises(TraceError, match="heat"):
        batch_of([row], schema())


def _slow_heat(scores, levels, size, history):
    heat = np.full(256, 128)
    best = np.full(256, -1)
    start = 0
    for level, score in zip(levels.tolist(), scores.tolist(), strict=True):
        stop = start + size ** max(level, 1)
        value = int(np.rint((np.float32(score) + 1) * 127.5)) if np.isfinite(score) else 128
        for b in range(256):
            low, high = b * history // 256, -(-(b + 1) * history // 256)
            if low < stop and start < high:
                best[b] = max(best[b], value)
        start = stop
    return np.where(best >= 0, best, heat).astype(np.uint8)


@settings(max_examples=60)
@given(
    levels=hnp.arrays(np.int8, st.integers(1, 12), elements=st.integers(0, 3)),
    tail=st.integers(0, 3),
    data=st.data(),
)
def test_heat_is_the_best_score_of_each_bin(levels, tail, data):
    scores = data.draw(
        hnp.arrays(
            np.float16,
            len(levels),
            elements=st.floats(-1, 1, width=16) | st.sampled_from([np.nan, np.inf, -np.inf]),
        )
    )
    history = int((4 ** np.maximum(levels, 1).astype(np.int64)).sum()) + tail
    assert (heat_of(scores, levels, 4, history) == _slow_heat(scores, levels, 4, history)).all()


@pytest.mark.parametrize("history", [256, 1024, 1000])
def test_a_bin_that_ends_with_a_node_does_not_take_the_next_one(history):
    levels = np.ones(history // 4, np.int8)
    scores = np.linspace(-1, 1, len(levels)).astype(np.float16)
    heat = heat_of(scores, levels, 4, history)
    assert (heat == _slow_heat(scores, levels, 4, history)).all()


def test_heat_without_scores_is_neutral():
    assert (heat_of(None, np.ones(4, np.int8), 4, 16) == 128).all()
    assert (heat_of(np.empty(0, np.float16), np.empty(0, np.int8), 4, 3) == 128).all()


def test_heat_refuses_scores_of_the_wrong_length():
    with pytest.raises(TraceError, match="one score per node"):
        heat_of(np.zeros(3, np.float16), np.ones(4, np.int8), 4, 16)
