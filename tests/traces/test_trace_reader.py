import shutil

import numpy as np
import pyarrow as pa
import pytest
from plain_arrow import read_plain, write_plain

from megacontext.traces.errors import TraceError, printable
from megacontext.traces.reader import TraceReader
from megacontext.traces.schema import COLUMNS, OPTIONAL, schema
from megacontext.traces.writer import TraceWriter

# ---------------------------------------------------------------- finished traces


def test_rows_equal_what_plain_pyarrow_reads(small_trace):
    table = read_plain(small_trace)
    with TraceReader.open(small_trace) as reader:
        assert reader.num_rows == table.num_rows
        for i in (0, 7, 8, 100, -1):
            row, plain = reader.row(i), table.slice(i % table.num_rows, 1).to_pylist()[0]
            for name, value in plain.items():
                mine = getattr(row, name)
                if name in ("actions", "rejected"):
                    mine = [dict(zip(mine.dtype.names, r, strict=True)) for r in mine.tolist()]
                elif isinstance(mine, np.ndarray):
                    mine = mine.tolist()
                np.testing.assert_equal(mine, value)


def test_metadata_is_typed(write):
    with TraceReader.open(write(1)) as reader:
        meta = reader.meta
        assert (meta.block_size, meta.w_max, meta.levels, meta.seed) == (4, 64, 3, 7)
        assert meta.config == "seed: 7\n"
        assert meta.enums["trigger"]["question"] == 1
        assert reader.schema_metadata["mc.trace.version"] == "1"


def test_the_overview_equals_the_rows(small_trace):
    with TraceReader.open(small_trace) as reader:
        overview = reader.overview()
        rows = list(reader.rows())
    assert overview.num_rows == len(rows)
    for name in ("step", "round", "history_tokens", "tail_tokens", "budget_used", "w_max"):
        assert getattr(overview, name).tolist() == [getattr(row, name) for row in rows]
    assert (overview.heat == np.stack([row.heat for row in rows])).all()
    drift = [np.nan if row.kv_drift is None else row.kv_drift for row in rows]
    np.testing.assert_array_equal(overview.kv_drift, np.array(drift, np.float32))
    marks = {i: row.marker for i, row in enumerate(rows) if row.marker is not None}
    assert overview.markers == marks
    assert marks
    assert not overview.damaged.any()


def test_an_overview_does_not_decode_scores(tmp_path, write):
    path = write(16)
    table = read_plain(path)
    with TraceReader.open(path) as reader:
        names = {
            name for _, batch in reader.project(["step", "heat"]) for name in batch.schema.names
        }
    assert names == {"step", "heat"}
    assert table.num_rows == 16


def test_rows_are_read_only_and_out_of_range_is_a_sentence(write):
    with TraceReader.open(write(3)) as reader:
        assert reader.row(-1).step == 2
        with pytest.raises(ValueError, match="read-only"):
            reader.row(0).levels[0] = 1
        with pytest.raises(TraceError, match="row 3 does not exist"):
            reader.row(3)
        assert [row.step for row in reader.rows(1, 99)] == [1, 2]


# ---------------------------------------------------------------- files that are no trace


def test_each_kind_of_wrong_file_gets_its_own_sentence(tmp_path, write):
    cases = {}
    cases["does not exist"] = tmp_path / "none.arrow"
    cases["is a folder"] = tmp_path
    (tmp_path / "empty.arrow").touch()
    cases["is empty"] = tmp_path / "empty.arrow"
    (tmp_path / "text.arrow").write_text("hello, world")
    cases["is not an Arrow IPC file"] = tmp_path / "text.arrow"
    other = pa.table({"a": [1]})
    write_plain(tmp_path / "other.arrow", other)
    cases["no MegaContext trace"] = tmp_path / "other.arrow"
    write_plain(tmp_path / "newer.arrow", other, {"mc.trace.version": "2"})
    cases["newer than this reader's 1"] = tmp_path / "newer.arrow"
    write_plain(tmp_path / "odd.arrow", other, {"mc.trace.version": "1", "mc.block_size": "x"})
    cases["mc.block_size = 'x'"] = tmp_path / "odd.arrow"
    (tmp_path / "cut.arrow").write_bytes(write(3).read_bytes()[:900])
    cases["inside its schema"] = tmp_path / "cut.arrow"
    for said, path in cases.items():
        with pytest.raises(TraceError, match=said) as caught:
            TraceReader.open(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_dictionary_column_is_refused(tmp_path, write):
    table = read_plain(write(3))
    column = pa.array(["a", "b", "a"]).dictionary_encode()
    at = table.schema.get_field_index("marker")
    table = table.set_column(at, "marker", column)
    write_plain(tmp_path / "dictionary.arrow", table)
    with pytest.raises(TraceError, match="dictionary"):
        TraceReader.open(tmp_path / "dictionary.arrow")


def test_unknown_columns_are_ignored_and_a_minor_version_is_read(tmp_path, write, same_row):
    path = write(10)
    table = read_plain(path).append_column("later", pa.array([["x"]] * 10))
    metadata = dict(table.schema.metadata) | {b"mc.trace.version": b"1.3"}
    write_plain(tmp_path / "more.arrow", table, metadata)
    with TraceReader.open(path) as old, TraceReader.open(tmp_path / "more.arrow") as new:
        assert new.meta.version == "1.3"
        assert all(same_row(a, b) for a, b in zip(old.rows(), new.rows(), strict=True))


def _without(table, name):
    return table.drop_columns([name])


def _mistyped(table, name):
    return table.set_column(table.schema.get_field_index(name), name, pa.array(["a", "b", "c"]))


def _renamed(table, name):
    names = [f"x{n}" if n == name else n for n in table.schema.names]
    return table.rename_columns(names).replace_schema_metadata(table.schema.metadata)


def _twice(table, name):
    return table.append_column(name, table.column(name))


@pytest.mark.parametrize("column", [c.name for c in COLUMNS if c.name not in OPTIONAL])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without, "column {} is missing"),
        (_renamed, "column {} is missing"),
        (_mistyped, "column {} is string, not "),
        (_twice, "column '{}' is there twice"),
    ],
)
def test_a_column_that_is_not_there_once_and_of_its_type_is_refused_at_once(
    tmp_path, write, column, change, said
):
    if change is _mistyped and column == "marker":
        pytest.skip("it holds text")
    write_plain(tmp_path / "odd.arrow", change(read_plain(write(3)), column))
    with pytest.raises(TraceError, match=said.format(column) + ".*; nothing can be read"):
        TraceReader.open(tmp_path / "odd.arrow")


def test_a_trace_from_before_an_optional_column_is_read(tmp_path, write):
    for column in OPTIONAL:
        write_plain(tmp_path / "old.arrow", _without(read_plain(write(3)), column))
        with TraceReader.open(tmp_path / "old.arrow") as reader:
            assert len(list(reader.rows(check=False))) == 3
            assert reader.overview().num_rows == 3


# ---------------------------------------------------------------- growing files


def test_a_growing_file_is_followed_to_its_footer(tmp_path, meta, arbitrary_row):
    path = tmp_path / "run.arrow"
    with TraceWriter(path, meta, threaded=False, flush_rows=2) as writer:
        reader = TraceReader.open(path)
        assert reader.num_rows == 0
        assert reader.overview().num_rows == 0
        assert reader.refresh() == 0
        for step in range(6):
            writer.put(arbitrary_row(step))
            assert reader.refresh() == 2 * (step % 2)
            if step % 2:
                assert reader.row(-1).step == step
                assert reader.overview().step.tolist() == list(range(step + 1))
        assert not reader.finished
        assert reader.being_written()
        writer.put(arbitrary_row(6))
    assert reader.refresh() == 1
    assert reader.finished
    assert not reader.being_written()
    assert reader.refresh() == 0
    assert reader.text_of(24, 26) == ["w6.0 ", "w6.1 "]
    reader.close()


def test_bytes_that_arrive_one_by_one_never_look_damaged(tmp_path, write):
    raw = write(6, flush_rows=2).read_bytes()
    path = tmp_path / "slow.arrow"
    with TraceReader.open(tmp_path / "run.arrow") as whole:
        start = whole._blocks[0].offset
    path.write_bytes(raw[:start])
    with TraceReader.open(path) as reader, path.open("ab", buffering=0) as file:
        rows = 0
        for at in range(start, len(raw), 41):
            file.write(raw[at : at + 41])
            rows += reader.refresh()
            assert reader.gaps == []
        assert rows == 6
        assert reader.finished
        assert reader.check() == []


def test_an_earlier_overview_does_not_change_when_the_file_grows(tmp_path, meta, arbitrary_row):
    path = tmp_path / "run.arrow"
    writer = TraceWriter(path, meta, threaded=False, flush_rows=1)
    with writer, TraceReader.open(path) as reader:
        writer.put(arbitrary_row(0))
        reader.refresh()
        early = reader.overview()
        for step in range(1, 1_500):  # past the first capacity
            writer.put(arbitrary_row(step, nodes=1))
        reader.refresh()
        assert reader.overview().step.tolist() == list(range(1_500))
        assert reader.overview().history_tokens.tolist() == list(range(4, 6_001, 4))
        assert (early.step.tolist(), early.history_tokens.tolist()) == ([0], [4])


def test_another_file_under_the_name_is_noticed(tmp_path, write):
    path = write(5)
    with TraceReader.open(path) as reader:
        assert reader.refresh() == 0
        shutil.copy(write(3, "other.arrow"), tmp_path / "copy.arrow")
        (tmp_path / "copy.arrow").replace(path)
        assert reader.refresh() == 3
        assert reader.generation == 1
        assert reader.overview().num_rows == 3


def test_a_closed_reader_says_so(write):
    reader = TraceReader.open(write(3))
    reader.close()
    with pytest.raises(TraceError, match="was closed"):
        reader.row(0)


def test_the_cache_is_bounded(tmp_path, meta, arbitrary_row):
    with TraceWriter(tmp_path / "run.arrow", meta, threaded=False, flush_rows=1) as writer:
        for step in range(300):
            writer.put(arbitrary_row(step))
    with TraceReader.open(tmp_path / "run.arrow") as reader:
        for i in range(300):
            assert reader.row(i).step == i
        assert len(reader._cache) <= 64


def test_the_schema_of_a_trace_is_version_one(write):
    with TraceReader.open(write(1)) as reader:
        assert reader.schema.names == schema().names


def test_what_a_damaged_file_says_stays_one_short_line():
    said = printable("1\n\0" + "x" * 1000)
    assert said.startswith("1??xxx")
    assert len(said) < 130
