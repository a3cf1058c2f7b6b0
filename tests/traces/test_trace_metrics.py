import json
import math

import numpy as np
import pytest

from megacontext.traces.metrics import metrics_of, series_of, time_to_focus
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import ACTION_DTYPE, TraceRow
from megacontext.traces.schema import ActionKind
from megacontext.traces.state import apply_actions, cost_of
from megacontext.traces.synthetic import make_small_trace
from megacontext.traces.writer import TraceWriter

K = 4
EXPAND, COLLAPSE = ActionKind.EXPAND, ActionKind.COLLAPSE


class _Run:
    """Writes a small legal run, refocus by refocus; one block is appended before each."""

    def __init__(self, path, meta, levels):
        self.writer = TraceWriter(path, meta, threaded=False)
        self.levels = np.array(levels, np.int8)
        self.step = -1
        self.tokens = int((K ** np.maximum(self.levels, 1).astype(np.int64)).sum())

    def row(self, *rounds, append=True, nll=(), marker=None, phase=0):
        self.step += 1
        appended = np.zeros(int(append and self.step > 0), np.int8)
        self.levels = np.concatenate([self.levels, appended])
        self.tokens += K * len(appended)
        for number, actions in enumerate(rounds or ((),)):
            records = np.zeros(len(actions), ACTION_DTYPE)
            for record, (kind, level, index, *forced) in zip(records, actions, strict=True):
                record["kind"], record["level"], record["index"] = kind, level, index
                record["forced"] = bool(forced)
            after = apply_actions(self.levels, records, K)
            row = TraceRow(
                step=self.step,
                round=number,
                phase=phase,
                history_tokens=self.tokens,
                levels=self.levels,
                actions=records,
                budget_used=cost_of(after, K, 0),
                w_max=100,
            )
            if number == 0:
                row.appended_levels, row.marker = appended, marker
                row.new_nll = np.array(nll, np.float32)
                row.new_tokens = np.zeros(len(nll), np.uint32)
                row.new_text = ["x"] * len(nll)
            self.writer.put(row)
            self.levels = after


@pytest.fixture
def run(tmp_path, meta):
    """A run to fill, and what its reader gives."""

    class Made:
        path = tmp_path / "run.arrow"

        def __call__(self, levels):
            self.run = _Run(self.path, meta, levels)
            return self.run

        def read(self):
            self.run.writer.close()
            return TraceReader.open(self.path)

    return Made()


def test_swap_rate_counts_voluntary_actions_per_raw_block(run):
    built = run([1, 1, 0, 0])
    built.row([(EXPAND, 1, 0), (COLLAPSE, 1, 2)])  # 2 of 2 raw blocks
    built.row([(COLLAPSE, 1, 0, "forced")])  # 0 of 3
    built.row([(EXPAND, 1, 1)], [(EXPAND, 1, 2)])  # 2 in two rounds, of 3
    with run.read() as reader:
        series = series_of(reader)
        assert series.raw_blocks.tolist() == [2, 3, 3]
        assert series.voluntary.tolist() == [2, 0, 2]
        assert series.forced.tolist() == [0, 1, 0]
        np.testing.assert_allclose(series.swap_rate, [1, 0, 2 / 3])
        figures = metrics_of(reader)
        assert figures["swap_rate"] == pytest.approx(5 / 9)
        assert (figures["expands"], figures["collapses"], figures["forced"]) == (3, 1, 1)


def test_residency_is_the_share_of_nodes_that_survive(run):
    built = run([2, 1, 1, 0])
    built.row([(EXPAND, 2, 0)], [(EXPAND, 1, 0)])  # the new gist that goes again is no old node
    built.row([(COLLAPSE, 1, 0)])
    built.row([(COLLAPSE, 2, 0)])  # four nodes for one
    with run.read() as reader:
        series = series_of(reader)
        assert series.nodes.tolist() == [4, 8, 9]
        assert series.survived.tolist() == [3, 7, 5]
        # entry to exit, in refocuses: LOD2 0-0, its first child 0-0, that one raw 0-1, its gist
        # 1-2 and the three other children 0-2
        assert sorted(series.lifetimes.tolist()) == [0, 0, 1, 1, 2, 2, 2]
        assert series.raw_lifetimes.tolist() == [1]


def test_thrash_counts_actions_that_undo_recent_ones(run):
    built = run([1, 1, 0, 0])
    built.row([(EXPAND, 1, 0)])
    built.row([(COLLAPSE, 1, 0)])  # undone at once
    for _ in range(11):
        built.row()
    built.row([(EXPAND, 1, 0)])  # long ago: a new look, not a reversal
    with run.read() as reader:
        assert series_of(reader).reversals.sum() == 1
        assert metrics_of(reader)["thrash"] == pytest.approx(1 / 3)


def test_nll_is_per_token_and_ignores_what_was_not_evaluated(run):
    built = run([0])
    built.row(nll=[1.0, np.nan, 2.0])
    built.row(nll=[6.0], phase=1)
    with run.read() as reader:
        figures = metrics_of(reader)
        assert figures["nll"] == pytest.approx(3.0)
        assert figures["nll_ingest"] == pytest.approx(1.5)
        assert figures["nll_decode"] == pytest.approx(6.0)
        assert series_of(reader).nll.tolist() == [1.5, 6.0]


def test_lod_mix_and_utilization(run):
    built = run([2, 1, 0, 0])
    built.row()
    with run.read() as reader:
        figures = metrics_of(reader)
        assert figures["lod0_share"] == 0.5
        assert figures["lod1_share"] == figures["lod2_share"] == 0.25
        assert figures["utilization"] == pytest.approx(0.10)


def test_time_to_focus_counts_refocuses_until_the_needle_is_raw(run):
    built = run([2, 1, 0])
    built.row(marker="needle planted @4-8")
    built.row(marker="question")
    built.row([(EXPAND, 2, 0)])
    built.row([(EXPAND, 1, 1)])  # two refocuses and 8 tokens after the question
    built.row(marker="question")  # it is still raw
    built.row(marker="question @0-4")  # never
    with run.read() as reader:
        first, second, third = time_to_focus(reader)
        assert (first["refocuses"], first["tokens"], first["already"]) == (2, 2 * K, False)
        assert (second["refocuses"], second["already"]) == (0, True)
        assert (third["refocuses"], third["tokens"]) == (None, None)
        assert (third["start"], third["stop"]) == (0, 4)
        figures = metrics_of(reader)
        assert (figures["questions"], figures["focused"]) == (3, 2)


def test_a_question_finds_its_needle_by_name(run):
    built = run([1, 1, 0, 1])
    built.row(marker="needle planted @8-12 key")
    built.row(marker="typed @1-2; needle planted @0-4 door")
    built.row(marker="question about key")
    built.row(marker="question about door")
    built.row(marker="a question of taste")
    with run.read() as reader:
        key, door = time_to_focus(reader)
        assert (key["start"], key["refocuses"], key["already"]) == (8, 0, True)
        assert (door["start"], door["refocuses"]) == (0, None)


def test_a_question_before_any_needle_is_left_out(run):
    built = run([1, 1, 0, 1])
    built.row(marker="question")
    with run.read() as reader:
        assert time_to_focus(reader) == []


def test_an_empty_trace_has_metrics_too(run):
    run([1])
    with run.read() as reader:
        figures = metrics_of(reader)
    assert figures["rows"] == figures["refocuses"] == 0
    assert figures["swap_rate"] is None
    assert figures["w_max"] == 64


def test_metrics_of_a_made_trace_are_plain_json(small_trace):
    with TraceReader.open(small_trace) as reader:
        figures = metrics_of(reader)
        series = series_of(reader)
        rows = list(reader.rows())
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    steps = {row.step for row in rows}
    assert figures["refocuses"] == len(steps) == len(series.step)
    forced = sum(int(row.actions["forced"].sum()) for row in rows)
    voluntary = sum(len(row.actions) for row in rows) - forced
    assert (figures["forced"], int(series.voluntary.sum())) == (forced, voluntary)
    assert figures["focused"] == figures["questions"] == 3
    assert 0 < figures["swap_rate"] < 1
    assert 0.5 < figures["residency"] <= 1
    decode = [row.us_decode for row in rows]
    assert math.isclose(
        figures["us_decode_p50"], np.quantile(np.float32(decode), 0.5), rel_tol=1e-6
    )


def test_survivors_agree_with_a_set_based_count(small_trace):
    with TraceReader.open(small_trace) as reader:
        size, series = reader.meta.block_size, series_of(reader)
        rows = list(reader.rows())

    def nodes(levels):
        spans = size ** np.maximum(levels, 1).astype(np.int64)
        return set(zip(levels.tolist(), (np.cumsum(spans) - spans).tolist(), strict=True))

    for number, first in enumerate(series.row.tolist()):
        last = first
        while last + 1 < len(rows) and rows[last + 1].step == rows[first].step:
            last += 1
        after = apply_actions(rows[last].levels, rows[last].actions, size)
        assert len(nodes(rows[first].levels) & nodes(after)) == series.survived[number]


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_damaged_batch_is_counted_and_measures_nothing(tmp_path, share):
    path = tmp_path / "made.arrow"
    make_small_trace(path)
    with TraceReader.open(path) as reader:
        whole, drift = metrics_of(reader), reader.overview().kv_drift.copy()
        block, rows = reader._blocks[2], reader._blocks[2].rows
    assert whole["damaged_rows"] == 0
    raw = bytearray(path.read_bytes())
    size = int(share * (block.length - 4_000))  # the body's end; with less, only some columns
    raw[block.offset + block.length - size : block.offset + block.length] = bytes(size)
    path.write_bytes(raw)
    with TraceReader.open(path) as reader:
        figures, overview = metrics_of(reader), reader.overview()
    assert figures["damaged_rows"] == rows
    assert figures["rows"] == whole["rows"]
    assert np.isnan(overview.kv_drift[overview.damaged]).all()
    assert np.isnan(overview.delta_nll[overview.damaged]).all()
    left = drift[~overview.damaged]
    assert figures["kv_drift_mean"] == pytest.approx(left[~np.isnan(left)].mean())


def test_a_row_with_two_phases_counts_each_token_in_its_own(run):
    built = run([0])  # 4 tokens of history, K of them new with each row
    built.row(nll=[1.0, 1.0, 8.0, 8.0], phase=1, marker="a fact; decode @2")
    built.row(nll=[8.0, 3.0, 3.0, 9.0], phase=1, marker="ingest @5; decode @7")
    with run.read() as reader:
        figures = metrics_of(reader)
        assert figures["nll_ingest"] == pytest.approx((1 + 1 + 3 + 3) / 4)
        assert figures["nll_decode"] == pytest.approx((8 + 8 + 8 + 9) / 4)


def test_a_level_whose_sign_flipped_leaves_its_row_out(tmp_path, meta):
    path = tmp_path / "run.arrow"
    levels = [np.array(row, np.int8) for row in ([1, 0], [1, -2], [1, 0])]
    with TraceWriter(path, meta, threaded=False) as writer:
        for step, frontier in enumerate(levels):
            writer.put(
                TraceRow(step=step, history_tokens=8, levels=frontier, budget_used=5, w_max=100)
            )
    with TraceReader.open(path) as reader:
        assert series_of(reader).step.tolist() == [0, 2]
        assert metrics_of(reader)["rows"] == 3
