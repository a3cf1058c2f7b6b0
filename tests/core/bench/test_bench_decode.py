"""The decode benchmark runs on a CPU and reports what it promises."""

import numpy as np
import pytest

from megacontext.core.bench.decode import SHAPES, _History, bench
from megacontext.core.model.layout import layout_rows


@pytest.mark.parametrize("n_tokens", SHAPES["tiny"].histories)
def test_synthetic_histories_are_legal_and_stay_inside_the_budget(n_tokens):
    history = _History(n_tokens, 512, seed=0, dim=8)
    for _ in range(20):
        assert 32 <= history.free() < 4 * 32
        rows = layout_rows(history.layout())
        assert rows.starts[0] == 0
        assert (rows.starts[1:] == (rows.starts + rows.widths)[:-1]).all()
        assert rows.starts[-1] + rows.widths[-1] == history.n_tokens
        history.close_block()
        history.refocus()
    assert len(np.unique(history.layout().levels)) > 1


@pytest.mark.slow
def test_the_benchmark_reports_costs_and_ratios():
    said: list[str] = []
    result = bench("tiny", device="cpu", cycles=1, exact_cycles=1, eager_tokens=1,
                   progress=said.append)  # fmt: skip
    assert said[0] == "splice, history of 512 tokens"
    for history in SHAPES["tiny"].histories:
        part = result[f"splice_{history}"]
        assert part["overhead"] == pytest.approx(part["cycle_token_ms"] / part["token_ms"])
        assert part["refocus_rows"] > 1
    assert result["overhead"] >= 1
    assert result["exact"]["refocus_rows"] > result["splice_512"]["refocus_rows"]
    assert result["hf_token_ms"] > 0
    assert "plain PyTorch" in result["exact"]["runner"]
