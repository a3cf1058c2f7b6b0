import numpy as np
import pytest

from megacontext.traces.errors import TraceError
from megacontext.traces.reader import TraceReader
from megacontext.traces.schema import ActionKind
from megacontext.traces.state import violations_of
from megacontext.traces.synthetic import SyntheticRun, make_small_trace, make_trace


def test_the_same_seed_makes_the_same_rows(tmp_path, same_row):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert make_small_trace(tmp_path / name, seed=seed, rows=60) == 60
    with (
        TraceReader.open(tmp_path / "a") as a,
        TraceReader.open(tmp_path / "b") as b,
        TraceReader.open(tmp_path / "c") as c,
    ):
        assert all(same_row(x, y) for x, y in zip(a.rows(), b.rows(), strict=True))
        assert not all(same_row(x, y) for x, y in zip(a.rows(), c.rows(), strict=True))


@pytest.mark.parametrize(("block_size", "entries"), [(8, 160), (8, 300), (32, 1024)])
def test_made_rows_are_legal_and_keep_the_limits(block_size, entries):
    run = SyntheticRun(tokens=block_size * 300, w_max=entries, block_size=block_size, seed=5)
    previous, flips = None, {}
    for row in run.rows():
        assert violations_of(row, block_size, previous) == []
        voluntary = row.actions[~row.actions["forced"]]
        assert len(voluntary) <= 4
        for action in row.actions:
            node = int(action["level"]), int(action["index"])
            last = flips.get(node)
            if last is not None and last[1] != action["kind"]:
                assert row.step - last[0] > 2  # the cooldown
            flips[node] = row.step, int(action["kind"])
        previous = row
    assert {ActionKind.EXPAND, ActionKind.COLLAPSE} <= {kind for _, kind in flips.values()}


def test_rows_and_tokens_are_upper_limits(tmp_path):
    assert make_trace(tmp_path / "a", rows=10, tokens=10_000, entries=1024) == 10
    assert make_trace(tmp_path / "b", rows=1_000, tokens=640, entries=1024, questions=0) == 20
    assert make_trace(tmp_path / "c", rows=0, tokens=640, entries=1024) == 0
    with TraceReader.open(tmp_path / "b") as reader:
        assert reader.row(-1).history_tokens == 640
        assert reader.overview().markers == {}


def test_needles_lie_where_their_markers_say(small_trace):
    with TraceReader.open(small_trace) as reader:
        marker = reader.overview().markers[16]
        start, stop = map(int, marker.rpartition("@")[2].split("-"))
        assert "".join(reader.text_of(start, stop)).startswith(" the vault code is ")
        assert reader.find("vault code") == (start + 1, start + 3)
        assert np.isfinite(reader.nll_of(start, stop)).all()


def test_a_budget_that_cannot_hold_the_history_is_refused(tmp_path):
    with pytest.raises(TraceError, match="entries = 100 is too small"):
        make_trace(tmp_path / "a", entries=100)
    with pytest.raises(TraceError, match="block_size = 4 is too small"):
        make_trace(tmp_path / "a", block_size=4)
