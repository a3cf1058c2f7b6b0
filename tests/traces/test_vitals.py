"""The vitals of a file equal those of its rows, whatever the slices they are read in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.tui.conftest import vitals_of

from megacontext.traces.metrics import series_of
from megacontext.traces.reader import TraceReader
from megacontext.traces.synthetic import make_small_trace
from megacontext.traces.vitals import VitalsScan
from megacontext.tui.sources.row_reader import row_model


@pytest.fixture
def reader(tmp_path: Path):
    path = tmp_path / "small.arrow"
    make_small_trace(path, rows=150)
    opened = TraceReader.open(path)
    yield opened
    opened.close()


def test_vitals_equal_the_rows_figures_and_changes(reader: TraceReader) -> None:
    scan = VitalsScan(reader)
    assert scan.advance(lambda: False)
    size = reader.meta.block_size
    expected = vitals_of([row_model(reader.row(n), n, size) for n in range(reader.num_rows)])
    vitals = scan.vitals()
    assert vitals.num_rows == 150
    assert len(vitals.changes) > 100
    for name in ("nll", "swap", "residency", "voluntary", "refused"):
        assert np.allclose(getattr(vitals, name), getattr(expected, name), equal_nan=True), name
    assert np.array_equal(vitals.changes, expected.changes)


def test_slices_add_up_to_the_whole(reader: TraceReader, monkeypatch) -> None:
    monkeypatch.setattr("megacontext.traces.vitals.GROUP", 3)
    scan, slices = VitalsScan(reader), 0
    while not scan.advance(lambda: True):
        slices += 1
        assert scan.vitals().num_rows < reader.num_rows
    whole = VitalsScan(reader)
    whole.advance(lambda: False)
    assert slices > 3
    assert np.array_equal(scan.vitals().changes, whole.vitals().changes)
    assert np.array_equal(scan.vitals().swap, whole.vitals().swap, equal_nan=True)


def test_a_damaged_batch_leaves_a_gap_and_nothing_else(reader: TraceReader, tmp_path: Path) -> None:
    whole = VitalsScan(reader)
    whole.advance(lambda: False)
    data = bytearray(reader.path.read_bytes())
    place = reader._blocks[3].offset
    data[place + 900 : place + 1400] = bytes(500)
    hurt = tmp_path / "hurt.arrow"
    hurt.write_bytes(data)
    damaged = TraceReader.open(hurt)
    scan = VitalsScan(damaged)
    assert scan.advance(lambda: False)
    assert scan.vitals().num_rows == damaged.num_rows
    last = damaged.first_row(6)
    assert np.array_equal(
        scan.vitals().swap[last:], whole.vitals().swap[-(damaged.num_rows - last) :], equal_nan=True
    )
    damaged.close()


def test_all_hits_are_those_that_repeated_finding_gives(reader: TraceReader) -> None:
    hits = reader.find_all("vault", 10_000, ignore_case=True)
    one_by_one, at = [], 0
    while (hit := reader.find("vault", at, ignore_case=True)) is not None:
        one_by_one.append(hit)
        at = hit[1]
    assert len(hits) > 2
    assert hits.tolist() == [list(hit) for hit in one_by_one]
    assert len(reader.find_all("vault", 2)) == 2
    assert not len(reader.find_all("", 5))


@pytest.mark.parametrize("group", [1, 32])
def test_the_last_round_of_a_refocus_has_its_swap_rate(
    reader: TraceReader, monkeypatch, group: int
) -> None:
    monkeypatch.setattr("megacontext.traces.vitals.GROUP", group)
    scan = VitalsScan(reader)
    assert scan.advance(lambda: False)
    series = series_of(reader)
    steps = np.array([reader.row(n).step for n in range(reader.num_rows)])
    last = np.flatnonzero(np.append(np.diff(steps) != 0, True))
    assert len(last) < reader.num_rows, "some refocuses have several rounds"
    assert np.allclose(scan.vitals().swap[last], series.swap_rate, equal_nan=True)
