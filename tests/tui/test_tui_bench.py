"""The benchmark runs and reports every figure that it promises."""

from __future__ import annotations

import pytest

from megacontext.traces.errors import MegaContextError
from megacontext.tui.dev import bench_attached as attached
from megacontext.tui.dev.bench import LIMITS, bench


@pytest.mark.slow
def test_a_small_benchmark_reports_all_figures() -> None:
    found = bench(rows=120, tokens=3840, entries=768, seeks=5, frames=5, keys=2)
    assert set(found["met"]) == set(LIMITS)
    assert all(found["figures"][name] > 0 for name in LIMITS)
    assert found["ok"] == all(found["met"].values())


@pytest.mark.slow
def test_a_short_session_is_timed_with_and_without_an_inspector() -> None:
    found = attached.bench(pairs=1, tokens=320, ingest=320, overrides=("device=cpu",))
    figures = found["figures"]
    assert figures["ratio"] == figures["pair_ratios"][0] > 0
    assert figures["headless_engine_cpu_s"] > 0
    assert figures["inspector_cpu_s"] > 0
    assert found["ok"] == (figures["ratio"] >= found["limits"]["ratio"])


def test_an_engine_that_cannot_start_ends_the_benchmark_with_its_sentence() -> None:
    with pytest.raises(MegaContextError, match=r"The engine died .*no_such_key"):
        attached.bench(pairs=1, overrides=("no_such_key=1",))
