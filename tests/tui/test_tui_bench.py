"""The benchmark runs and reports every figure that it promises."""

from __future__ import annotations

import pytest

from megacontext.tui.bench import LIMITS, bench


@pytest.mark.slow
def test_a_small_benchmark_reports_all_figures() -> None:
    found = bench(rows=120, tokens=3840, entries=768, seeks=5, frames=5, keys=2)
    assert set(found["met"]) == set(LIMITS)
    assert all(found["figures"][name] > 0 for name in LIMITS)
    assert found["ok"] == all(found["met"].values())
