"""Columns of neighbouring batches come as one table, and damage still costs one batch alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from megacontext.traces.reader import TraceReader
from megacontext.traces.synthetic import make_small_trace
from megacontext.traces.vitals import VitalsScan

NAMES = ("step", "actions", "marker")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "small.arrow"
    make_small_trace(path, rows=150)
    return path


def damaged_copy(trace: Path, block: int) -> Path:
    with TraceReader.open(trace) as reader:
        place = reader._blocks[block].offset
    data = bytearray(trace.read_bytes())
    data[place + 16 : place + 1200] = bytes(1184)
    copy = trace.with_name("damaged.arrow")
    copy.write_bytes(data)
    return copy


def test_tables_hold_the_batches(trace: Path) -> None:
    with TraceReader.open(trace) as reader:
        batches = [batch for _, batch in reader.project(NAMES, 2, 9)]
        ((first, table),) = reader.tables(NAMES, 2, 9)
        assert first == reader.first_row(2)
        assert table == pa.Table.from_batches(batches)


def test_small_chunks_give_the_same_rows(trace: Path, monkeypatch) -> None:
    with TraceReader.open(trace) as reader:
        ((_, whole),) = reader.tables(NAMES)
        monkeypatch.setattr("megacontext.traces.projection._CHUNK_BYTES", 4096)
        parts = list(reader.tables(NAMES))
        assert len(parts) > 5
        assert [first for first, _ in parts] == sorted({first for first, _ in parts})
        assert pa.concat_tables([part for _, part in parts]).equals(whole)


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_damaged_batch_costs_itself_alone(trace: Path, where: str) -> None:
    with TraceReader.open(trace) as reader:
        block, rows = reader._blocks[5], reader.num_rows
    copy = damaged_copy(trace, 5)
    if where == "body":
        data = bytearray(trace.read_bytes())
        stop = block.offset + block.length
        data[stop - block.length // 2 : stop] = b"\xff" * (block.length // 2)
        copy.write_bytes(data)
    with TraceReader.open(copy) as reader:
        lost = {n for n, batch in reader.project(NAMES) if batch is None}
        assert {n for n, table in reader.tables(NAMES) if table is None} == lost
        assert bool(lost) == (where == "body"), "a batch without its head is not even counted"
        batches = [batch for _, batch in reader.project(NAMES) if batch is not None]
        tables = [table for _, table in reader.tables(NAMES) if table is not None]
        assert pa.concat_tables(tables).equals(pa.Table.from_batches(batches))
        assert sum(table.num_rows for table in tables) == rows - block.rows


def test_an_overview_of_some_columns_reads_those_alone(trace: Path) -> None:
    with TraceReader.open(trace) as reader:
        whole = reader.overview()
    with TraceReader.open(trace, overview_columns=("heat", "marker", "us_kv")) as reader:
        some = reader.overview()
    assert some.num_rows == whole.num_rows
    for name in ("step", "history_tokens", "heat", "us_kv"):
        assert np.array_equal(getattr(some, name), getattr(whole, name)), name
    assert some.markers == whole.markers
    assert not len(some.budget_used), "a column that was not asked for has no rows to be read"
    assert not some.knobs


def test_vitals_that_are_decoded_ahead_are_the_same(trace: Path, monkeypatch) -> None:
    damaged = damaged_copy(trace, 7)
    with TraceReader.open(damaged) as reader:
        plain = VitalsScan(reader)
        assert plain.advance(lambda: False)
        monkeypatch.setattr("megacontext.traces.vitals.GROUP", 2)
        ahead = VitalsScan(reader)
        ahead.decode_ahead()
        assert ahead._decoding, "groups are being decoded"
        while not ahead.advance(lambda: True):
            assert ahead.vitals().num_rows < reader.num_rows
        for name in ("nll", "swap", "residency", "voluntary", "refused"):
            assert np.array_equal(
                getattr(ahead.vitals(), name), getattr(plain.vitals(), name), equal_nan=True
            ), name
        assert np.array_equal(ahead.vitals().changes, plain.vitals().changes)
