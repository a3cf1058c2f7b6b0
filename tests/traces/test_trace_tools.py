import json
import math
import re
import zlib
from base64 import b64decode
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megacontext.traces.compact import compact
from megacontext.traces.errors import LockedError, TraceError
from megacontext.traces.export import export
from megacontext.traces.files import OS_FILES
from megacontext.traces.paths import lock_path
from megacontext.traces.reader import TraceReader
from megacontext.traces.recover import recover
from megacontext.traces.writer import TraceWriter, stored_scores

# ---------------------------------------------------------------- recover


def test_recover_gives_a_cut_trace_its_footer(write, same_row):
    path = write(40)
    with TraceReader.open(path) as reader:
        whole = list(reader.rows())
        keep = reader._blocks[3].offset + 100
    path.write_bytes(path.read_bytes()[:keep])
    report = recover(path)
    assert (report.rows, report.tail_bytes, report.was_finished) == (24, 100, False)
    with pa.OSFile(str(path)) as file:
        assert pa.ipc.open_file(file).read_all().num_rows == 24
    with TraceReader.open(path) as reader:
        assert reader.finished
        assert all(same_row(a, b) for a, b in zip(reader.rows(), whole, strict=False))
    assert recover(path).was_finished


def test_recover_leaves_out_what_cannot_be_decoded_and_says_so(write, tmp_path):
    path = write(40)
    raw = bytearray(path.read_bytes())
    with TraceReader.open(path) as reader:
        block = reader._blocks[2]
    raw[block.offset + block.length - 1_200 : block.offset + block.length - 300] = bytes(900)
    path.write_bytes(raw)
    report = recover(path, tmp_path / "new.arrow")
    assert report.rows == 32
    assert len(report.lost) == 1
    assert "steps 16 to 23" in report.lost[0]
    assert path.read_bytes() == raw
    with TraceReader.open(tmp_path / "new.arrow") as reader:
        assert [row.step for row in reader.rows()] == [*range(16), *range(24, 40)]


def test_recover_and_compact_refuse_a_running_trace(tmp_path, meta, write):
    path = tmp_path / "run.arrow"
    with TraceWriter(path, meta):
        for work in (recover, compact):
            with pytest.raises(TraceError, match="still being written"):
                work(path)
    other = write(3, "other.arrow")
    lock = OS_FILES.lock(lock_path(other))
    (tmp_path / "source.arrow").write_bytes(other.read_bytes())
    with pytest.raises(LockedError, match="still being written"):
        recover(tmp_path / "source.arrow", other)
    lock.release()


def test_recover_keeps_columns_it_does_not_know(write, tmp_path):
    with pa.OSFile(str(write(5))) as file:
        table = pa.ipc.open_file(file).read_all().append_column("later", pa.array(range(5)))
    path = tmp_path / "more.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    recover(path)
    with pa.OSFile(str(path)) as file:
        assert pa.ipc.open_file(file).read_all()["later"].to_pylist() == list(range(5))


# ---------------------------------------------------------------- compact


def test_compact_changes_the_size_and_nothing_else(small_trace, tmp_path, same_row):
    report = compact(small_trace, tmp_path / "small.arrow")
    assert report.rows == 200
    assert report.bytes_after < report.bytes_before == small_trace.stat().st_size
    with TraceReader.open(small_trace) as a, TraceReader.open(tmp_path / "small.arrow") as b:
        assert a.schema_metadata == b.schema_metadata
        assert all(same_row(x, y) for x, y in zip(a.rows(), b.rows(), strict=True))


def test_compact_can_make_scores_coarser_but_not_finer(write, tmp_path):
    path = write(20)
    with TraceReader.open(path) as reader:
        scores = reader.row(7).scores
    compact(path, scores="u8")
    with TraceReader.open(path) as reader:
        assert reader.meta.scores == "u8"
        assert (reader.row(7).scores == stored_scores(scores, "u8")).all()
        assert reader.check() == []
    compact(path, scores="u8")
    with pytest.raises(TraceError, match="has only u8 scores"):
        compact(path, scores="f16")
    compact(path, scores="none")
    with TraceReader.open(path) as reader:
        assert reader.row(7).scores is None
    with pytest.raises(TraceError, match="scores = 'f8' is unknown"):
        compact(path, scores="f8")


def test_compact_of_a_damaged_trace_leaves_it_alone(write):
    path = write(40)
    raw = bytearray(path.read_bytes())
    with TraceReader.open(path) as reader:
        block = reader._blocks[2]
    raw[block.offset + block.length - 1_200 : block.offset + block.length - 300] = bytes(900)
    path.write_bytes(raw)
    with pytest.raises(TraceError, match="damaged"):
        compact(path)
    assert path.read_bytes() == raw
    assert sorted(p.name for p in path.parent.iterdir()) == ["run.arrow"]


# ---------------------------------------------------------------- export


@pytest.fixture
def gappy(tmp_path, meta, arbitrary_row):
    """Rows of which some lost their scores, with NaN and infinity."""
    path = tmp_path / "gappy.arrow"
    with TraceWriter(path, meta, threaded=False) as writer:
        for step in range(30):
            row = arbitrary_row(step)
            row.scores[:2] = [np.nan, np.inf]
            if step % 3 == 0:
                row.scores = None
            writer.put(row)
    return path


def test_parquet_holds_every_value_with_wide_floats(gappy, tmp_path):
    with TraceReader.open(gappy) as reader:
        assert export(reader, tmp_path / "out.parquet") == 30
        assert export(reader, tmp_path / "part.parquet", start=5, stop=21) == 16
        rows = list(reader.rows())
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("scores").type.value_type == pa.float32()
    assert table.schema.metadata[b"mc.block_size"] == b"4"
    for row, plain in zip(rows, table.to_pylist(), strict=True):
        assert plain["step"] == row.step
        assert plain["new_text"] == row.new_text
        assert plain["levels"] == row.levels.tolist()
        if row.scores is None:
            assert plain["scores"] is None
        else:
            np.testing.assert_array_equal(plain["scores"], row.scores)
        assert [a["index"] for a in plain["actions"]] == row.actions["index"].tolist()
    part = pq.read_table(tmp_path / "part.parquet")
    assert str(part.to_pylist()) == str(table.slice(5, 16).to_pylist())  # NaN is not NaN


def test_jsonl_is_strict_json_with_null_for_nan(gappy, tmp_path):
    with TraceReader.open(gappy) as reader:
        assert export(reader, tmp_path / "out.jsonl", start=1, stop=4) == 3
        assert export(reader, tmp_path / "bare.jsonl", scores=False) == 30

    def refuse(name):
        raise AssertionError(name)

    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["scores"][:2] == [None, None]
    assert all(math.isfinite(score) for score in rows[0]["scores"][2:])
    assert rows[2]["scores"] is None
    assert rows[1]["actions"][0]["index"] == 2**60 + 2
    assert "scores" not in json.loads((tmp_path / "bare.jsonl").read_text().splitlines()[0])


def test_a_timeline_is_well_formed_and_self_contained(small_trace, tmp_path):
    with TraceReader.open(small_trace) as reader:
        export(reader, tmp_path / "out.svg")
        export(reader, tmp_path / "out.page", "html")
        markers = reader.overview().markers
    svg = (tmp_path / "out.svg").read_text()
    tree = ElementTree.fromstring(svg)
    titles = [e.text for e in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == [f"row {row}: {text}" for row, text in sorted(markers.items())]
    png = b64decode(re.search(r"base64,([^\"]+)", svg)[1])
    assert png.startswith(b"\x89PNG")
    width = int.from_bytes(png[16:20], "big")
    at = png.index(b"IDAT")
    data = zlib.decompress(png[at + 4 : at + 4 + int.from_bytes(png[at - 4 : at], "big")])
    assert len(data) == 256 * (3 * width + 1)
    page = (tmp_path / "out.page").read_text()
    assert "swap_rate" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_a_marker_cannot_smuggle_markup_into_a_picture(tmp_path, meta, arbitrary_row):
    row = arbitrary_row(0)
    row.marker = "<script>alert(1)</script>\x1b[31m"
    row.actions = row.actions[:0]
    with TraceWriter(tmp_path / "run.arrow", meta) as writer:
        writer.put(row)
    with TraceReader.open(tmp_path / "run.arrow") as reader:
        export(reader, tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text()
    assert "<script>" not in page
    assert "\x1b" not in page


def test_an_empty_trace_can_be_exported(write, tmp_path):
    with TraceReader.open(write(0)) as reader:
        for kind in ("parquet", "jsonl", "svg", "html"):
            assert export(reader, tmp_path / f"out.{kind}") == 0


def test_a_failed_export_leaves_nothing_behind(write, tmp_path):
    with TraceReader.open(write(3)) as reader:
        with pytest.raises(TraceError, match="format = 'csv' is unknown"):
            export(reader, tmp_path / "out.csv")
        with pytest.raises(TraceError, match="cannot be written"):
            export(reader, tmp_path / "missing" / "out.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.arrow"]


def test_a_column_that_says_it_holds_no_nulls_is_one_sentence(write, tmp_path):
    with pa.OSFile(str(write(12))) as file:
        table = pa.ipc.open_file(file).read_all()
    at = table.schema.get_field_index("delta_nll")
    assert table.column(at).null_count
    damaged = table.schema.set(at, table.schema.field(at).with_nullable(False))
    path = tmp_path / "damaged.arrow"
    with pa.ipc.new_file(path, damaged) as file:
        for batch in table.to_batches():
            file.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=damaged))
    with TraceReader.open(path) as reader, pytest.raises(TraceError, match=r"as parquet: .*nulls"):
        export(reader, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
