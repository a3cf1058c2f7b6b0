"""Columns decoded together are those that Arrow decodes batch by batch, or else none at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from megacontext.traces.column_decoder import decode_columns
from megacontext.traces.reader import TraceReader
from megacontext.traces.writer import TraceWriter


@pytest.fixture
def trace(tmp_path: Path, arbitrary_row, meta) -> Path:
    """90 rows in batches of different sizes, with nulls, knobs and empty lists."""
    path = tmp_path / "plain.arrow"
    with TraceWriter(path, meta, flush_rows=100, threaded=False) as writer:
        for step in range(90):
            writer.put(arbitrary_row(step, nodes=step % 7, tokens=step % 5))
            if step % 11 == 10:
                writer.flush()
    return path


def of_file(path: Path) -> tuple[np.ndarray, list, pa.Schema]:
    with TraceReader.open(path) as reader:
        return np.frombuffer(path.read_bytes(), np.uint8), reader._blocks, reader.schema


def by_arrow(data: np.ndarray, blocks: list, schema: pa.Schema) -> pa.Table | None:
    """All columns as Arrow reads them, None where it refuses a batch."""
    batches = []
    for block in blocks:
        try:
            raw = data[block.offset : block.offset + block.length].tobytes()
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(raw), schema)
            batch.validate(full=True)
        except (pa.ArrowException, OSError, ValueError):
            return None
        if batch.num_rows != block.rows:
            return None
        batches.append(batch)
    return pa.Table.from_batches(batches)


def same(a: pa.Table, b: pa.Table) -> bool:
    """Equal, where NaN equals NaN."""
    return a.schema == b.schema and repr(a.to_pylist()) == repr(b.to_pylist())


def test_all_columns_are_those_of_arrow(trace: Path) -> None:
    data, blocks, schema = of_file(trace)
    assert len({block.rows for block in blocks}) > 1
    table = decode_columns(data, blocks, schema, schema.names)
    expected = by_arrow(data, blocks, schema)
    assert table is not None
    assert expected is not None
    assert same(table, expected)
    assert 0 < table.column("marker").null_count < table.num_rows


def test_a_part_of_the_columns_and_of_the_batches(trace: Path) -> None:
    data, blocks, schema = of_file(trace)
    whole = by_arrow(data, blocks[3:6], schema)
    part = decode_columns(data, blocks[3:6], schema, ["knobs", "step", "actions"])
    assert part is not None
    assert whole is not None
    assert part.schema.names == ["step", "actions", "knobs"]
    assert same(part, whole.select(["step", "actions", "knobs"]))


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_other_compressions_are_left_to_arrow(tmp_path: Path, trace: Path, compression) -> None:
    data, blocks, schema = of_file(trace)
    expected = by_arrow(data, blocks, schema)
    assert expected is not None
    path = tmp_path / "foreign.arrow"
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(path, schema, options=options) as writer:
        writer.write_table(expected)
    data, blocks, schema = of_file(path)
    assert decode_columns(data, blocks, schema, schema.names) is None
    with TraceReader.open(path) as reader:
        ((first, table),) = reader.tables(schema.names)
        assert first == 0
        assert table is not None
        assert same(table, expected)


def test_a_flipped_byte_never_moves_a_value(trace: Path) -> None:
    """What is decoded is what Arrow decodes; where it minds a header, what was written."""
    data, blocks, schema = of_file(trace)
    intact = by_arrow(data, blocks, schema)
    assert intact is not None
    random = np.random.Generator(np.random.Philox(key=7))
    first, last = blocks[0].offset, blocks[-1].offset + blocks[-1].length
    refused = 0
    for place in random.integers(first, last, 300).tolist():
        flipped = data.copy()
        flipped[place] ^= np.uint8(1 << int(random.integers(8)))
        table = decode_columns(flipped, blocks, schema, schema.names)
        if table is None:
            refused += 1
            continue
        expected = by_arrow(flipped, blocks, schema)
        assert same(table, intact if expected is None else expected), place
    assert 0 < refused < 300


def test_a_file_that_was_cut_meanwhile_is_refused(trace: Path) -> None:
    data, blocks, schema = of_file(trace)
    for stop in (blocks[-1].offset + 4, blocks[-1].offset + blocks[-1].length // 2):
        assert decode_columns(data[:stop], blocks, schema, schema.names) is None


def test_another_schema_than_the_batches_have_is_refused(trace: Path) -> None:
    data, blocks, schema = of_file(trace)
    longer = schema.append(pa.field("more", pa.list_(pa.int8())))
    assert decode_columns(data, blocks, longer, ["step"]) is None
    wider = schema.set(0, pa.field("step", pa.uint64()))
    assert decode_columns(data, blocks, wider, ["step"]) is None
    foreign = schema.set(0, pa.field("step", pa.dictionary(pa.int8(), pa.string())))
    assert decode_columns(data, blocks, foreign, ["round"]) is None
