"""When a phase is kept: the guard's bounds first, then the metric that it was to improve."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from megacontext.core.training.joint.config import DriftGuard
from megacontext.core.training.joint.evaluate import Scores
from megacontext.core.training.joint.verdict import drift_reason, judge_phase, metric_changes

GUARD = DriftGuard(vanilla_nll_rise=0.02, task_nll_rise=0.05)
START = Scores(
    vanilla_nll=(2.0, 3.0),
    task_nll=(1.0, 1.0),
    task_correct=(1.0, 0.0),
    mixed_nll=(2.5, 3.5, 3.0),
    full_nll=(2.0, 3.0, 2.5),
    lens={"lens_missed": 0.5},
)


def _judge(train, after, before=START, tolerance=0.0):
    return judge_phase(train, before, after, START, GUARD, tolerance=tolerance, seed=0)


@pytest.mark.parametrize("train", ["gistnet", "lora"])
def test_lower_nll_on_mixed_windows_is_kept_with_an_interval_over_windows(train):
    verdict = _judge(train, replace(START, mixed_nll=(2.4, 3.2, 2.8)))
    assert verdict.accepted
    assert verdict.change == pytest.approx(-0.2)
    low, high = verdict.interval
    assert -0.3 <= low < -0.2 < high <= -0.1


@pytest.mark.parametrize("train", ["gistnet", "lora"])
def test_higher_nll_on_mixed_windows_is_rolled_back_beyond_the_tolerance(train):
    after = replace(START, mixed_nll=(2.6, 3.6, 3.1))
    verdict = _judge(train, after)
    assert not verdict.accepted
    assert verdict.reason == "mixed_nll rose by 0.1"
    assert _judge(train, after, tolerance=0.11).accepted


def test_a_lens_is_judged_by_what_it_misses():
    assert _judge("lensnet", replace(START, lens={"lens_missed": 0.4})).accepted
    assert not _judge("lensnet", replace(START, lens={"lens_missed": 0.6})).accepted
    first = _judge("lensnet", START, before=replace(START, lens={}))
    assert first.accepted
    assert first.change is None


@pytest.mark.parametrize(
    ("worse", "name"),
    [({"vanilla_nll": (2.03, 3.03)}, "vanilla_nll"), ({"task_nll": (1.0, 1.2)}, "task_nll")],
)
def test_drift_beyond_a_bound_is_rolled_back_however_much_it_helps(worse, name):
    after = replace(START, mixed_nll=(1.0, 1.0, 1.0), **worse)
    verdict = _judge("lora", after)
    assert not verdict.accepted
    assert verdict.reason.startswith(f"{name} rose by")


def test_drift_is_counted_from_the_start_of_the_run_and_not_from_the_phase_before():
    creeping = replace(START, vanilla_nll=(2.015, 3.015))
    assert drift_reason(creeping, START, GUARD) is None
    twice = replace(START, vanilla_nll=(2.03, 3.03), mixed_nll=(2.0, 3.0, 2.5))
    assert not _judge("lora", twice, before=creeping).accepted


def test_a_model_that_gives_no_numbers_is_rolled_back():
    broken = replace(START, vanilla_nll=(math.nan, 3.0), mixed_nll=(math.nan,) * 3)
    assert not _judge("lora", broken).accepted
    assert not _judge("gistnet", replace(START, mixed_nll=(math.nan,) * 3)).accepted


def test_every_metric_by_window_gets_its_change_with_an_interval():
    after = replace(START, vanilla_nll=(2.01, 3.03), mixed_nll=(2.4, 3.2, 2.8))
    changes = metric_changes(START, after, seed=0)
    assert set(changes) == {"vanilla_nll", "task_nll", "task_accuracy", "mixed_nll"}
    mean, low, high = changes["vanilla_nll"]
    assert mean == pytest.approx(0.02)
    assert 0.01 - 1e-9 <= low < mean < high <= 0.03 + 1e-9
    assert changes["task_nll"] == (0.0, 0.0, 0.0)


def test_a_single_window_has_no_interval():
    one = replace(START, task_nll=(1.0,), task_correct=(1.0,))
    assert "task_nll" not in metric_changes(one, one, seed=0)
