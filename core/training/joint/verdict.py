"""Whether a phase is kept: the drift guard first, then the metric that it was to improve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megacontext.core.evaluation.tasks.intervals import Interval, bootstrap
from megacontext.core.training.joint.config import DriftGuard, PhaseKind
from megacontext.core.training.joint.evaluate import Scores

__all__ = ["Verdict", "drift_reason", "judge_phase", "metric_changes"]

Change = tuple[float, float, float]  # mean, and the ends of its 95 % interval
_PAIRED = {
    "vanilla_nll": "vanilla_nll",
    "task_nll": "task_nll",
    "task_accuracy": "task_correct",
    "mixed_nll": "mixed_nll",
}


@dataclass(frozen=True)
class Verdict:
    """``change`` of the phase's metric (negative is better) with its 95 % interval, if any."""

    accepted: bool
    reason: str
    change: float | None = None
    interval: Interval | None = None


def drift_reason(scores: Scores, reference: Scores, guard: DriftGuard) -> str | None:
    """Why ``scores`` are beyond the bounds of the guard, in one clause; None if they are not."""
    for name, before, after, bound in (
        ("vanilla_nll", reference.vanilla_nll, scores.vanilla_nll, guard.vanilla_nll_rise),
        ("task_nll", reference.task_nll, scores.task_nll, guard.task_nll_rise),
    ):
        rise = float(np.mean(after) - np.mean(before))
        if not rise <= bound:  # a NaN is beyond every bound
            return f"{name} rose by {rise:.4g} nats since the start, above {name}_rise {bound:g}"
    return None


def metric_changes(before: Scores, after: Scores, seed: int) -> dict[str, Change]:
    """What a phase changed on the held-out windows, paired by window; a single window has none."""
    changes = {}
    for name, values in _PAIRED.items():
        mean, interval = _paired_change(getattr(before, values), getattr(after, values), seed)
        if interval is not None:
            changes[name] = (mean, *interval)
    return changes


def _paired_change(
    before: Sequence[float], after: Sequence[float], seed: int
) -> tuple[float, Interval | None]:
    """(mean of after - before, its 95 % interval over windows)."""
    diffs = np.subtract(after, before)
    interval = bootstrap(lambda pick: float(diffs[pick].mean()), len(diffs), seed, "joint")
    return float(diffs.mean()), interval


def judge_phase(
    train: PhaseKind,
    before: Scores,
    after: Scores,
    reference: Scores,
    guard: DriftGuard,
    *,
    tolerance: float,
    seed: int,
) -> Verdict:
    """Keep a phase that improved its metric and drifted within the guard's bounds.

    GistNet and adapter are judged by ``mixed_nll``, paired by window; the lens by ``lens_missed``.
    """
    interval = None
    if train == "lensnet":
        metric = "lens_missed"
        if not before.lens:
            return Verdict(True, f"the first LensNet, {metric} {after.lens[metric]:.4g}")
        change = after.lens[metric] - before.lens[metric]
    else:
        metric = "mixed_nll"
        change, interval = _paired_change(before.mixed_nll, after.mixed_nll, seed)

    drift = drift_reason(after, reference, guard)
    if drift is not None:
        return Verdict(False, drift, change, interval)
    if not change <= tolerance:
        return Verdict(False, f"{metric} rose by {change:.4g}", change, interval)
    return Verdict(True, f"{metric} changed by {change:.4g}", change, interval)
