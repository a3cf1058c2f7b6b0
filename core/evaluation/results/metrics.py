"""Metrics beside their targets: one table for the suite and for ablations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megacontext.core.evaluation.tasks.answer_nll import RECALL_TEXT
from megacontext.core.evaluation.tasks.intervals import Interval
from megacontext.core.evaluation.tasks.nll import Piece
from megacontext.core.evaluation.tasks.nll_metrics import DELETE, OURS, NLLMetrics, summarize_nll
from megacontext.core.evaluation.tasks.overhead import Overhead
from megacontext.core.evaluation.tasks.recall import RecallMetrics, Result, summarize_recall
from megacontext.core.evaluation.tasks.session_health import Health

__all__ = [
    "Metric",
    "health_metrics",
    "metric",
    "nll_metrics",
    "overhead_metrics",
    "recall_metrics",
    "single_metrics",
]

_RECALL_TARGETS = {16: 0.95, 64: 0.90}
_GAIN_TARGETS = {"code": 0.6, RECALL_TEXT: 0.9}


@dataclass(frozen=True)
class Metric:
    """One value with its 95 % interval; a row of the Parquet file.

    Attributes:
        measure: what was measured.
        group: the length, budget or domain that the table's columns are of.
        column: which of them.
        contender: who.
        target: of ours, in words; empty where there is none.
        met: None where there is no target.
    """

    measure: str
    group: str
    column: str
    contender: str
    value: float | None
    low: float | None
    high: float | None
    count: int
    target: str = ""
    met: bool | None = None


def metric(
    measure: str,
    group: str,
    column: str,
    contender: str,
    value: float | None,
    interval: Interval | None,
    count: int,
) -> Metric:
    """A metric without a target."""
    low, high = interval or (None, None)
    return Metric(measure, group, column, contender, value, low, high, count)


def _with_target(row: Metric, target: str, met: bool) -> Metric:
    """Targets are for ours alone."""
    return replace(row, target=target, met=met) if row.contender == OURS else row


def recall_metrics(results: Sequence[Result]) -> list[Metric]:
    """Recall by length and by kind, gold expanded, refocuses until it was."""
    rows: list[Metric] = []
    for name, summary in summarize_recall(results).items():
        for times, metrics in summary.by_times.items():
            rows += _at_length(name, times, metrics)
        for kind, metrics in summary.by_kind.items():
            accuracy, interval = metrics.accuracy, metrics.interval
            rows.append(metric("recall", "kind", kind, name, accuracy, interval, metrics.count))
    return rows


def _at_length(name: str, times: int, metrics: RecallMetrics) -> list[Metric]:
    """The metrics of one length of history."""
    column, count = f"{times}×", metrics.count
    recall = metric("recall", "history", column, name, metrics.accuracy, metrics.interval, count)
    if times in _RECALL_TARGETS:
        target = _RECALL_TARGETS[times]
        recall = _with_target(recall, f"≥ {target:.0%}", metrics.accuracy >= target)
    rows = [recall]

    if (fraction := metrics.gold_expanded) is not None:
        row = metric(
            "gold expanded", "history", column, name, fraction, metrics.gold_interval, count
        )
        rows.append(_with_target(row, "≥ 95%", fraction >= 0.95))
    if (mean := metrics.refocuses) is not None:
        row = metric(
            "refocuses until expanded", "history", column, name, mean, None, metrics.reached
        )
        rows.append(_with_target(row, "≤ 2", mean <= 2))
    return rows


def nll_metrics(pieces: Sequence[Piece], seed: int, window: int) -> list[Metric]:
    """ΔNLL, its 95th percentile, recovered gain and distance from ours, by domain and budget.

    Args:
        window: the model's trained window, for the target of ΔNLL.
    """
    rows: list[Metric] = []
    for name, summary in summarize_nll(pieces, seed).items():
        for w_max, group in summary.by_w_max.items():
            for domain, metrics in (group.by_domain or {"all": group.overall}).items():
                rows += _in_domain(domain, w_max, name, metrics, window)
    return rows


def _in_domain(
    domain: str, w_max: int, name: str, metrics: NLLMetrics, window: int
) -> list[Metric]:
    """The metrics of one domain at one budget."""
    column, count, delta = f"W_max {w_max}", metrics.count, metrics.delta_nll
    row = metric("ΔNLL@64", domain, column, name, delta, metrics.interval, count)
    if 4 * w_max <= window <= 16 * w_max and domain != RECALL_TEXT:
        row = _with_target(row, "≤ 0.10", delta <= 0.10)  # for compression of 4x to 16x
    rows = [row]
    p95 = metrics.delta_nll_p95
    rows.append(metric("ΔNLL@64, p95", domain, column, name, p95, None, count))

    if (gain := metrics.recovered_gain) is not None and name != DELETE:
        interval = metrics.recovered_gain_interval
        row = metric("recovered gain", domain, column, name, gain, interval, count)
        target = _GAIN_TARGETS.get(domain)
        rows.append(row if target is None else _with_target(row, f"≥ {target}", gain >= target))
    if (difference := metrics.behind_ours) is not None:
        interval = metrics.behind_ours_interval
        rows.append(metric("NLL above ours", domain, column, name, difference, interval, count))
    return rows


def single_metrics(pieces: Sequence[Piece], seed: int) -> list[Metric]:
    """One block replaced by its gist, its mean, nothing; by domain and over all."""
    if not pieces:
        return []
    groups = {
        name: summary.first
        for name, summary in summarize_nll([replace(p, w_max=0) for p in pieces], seed).items()
    }
    rows: list[Metric] = []
    for name, group in groups.items():
        for domain, metrics in ({"all": group.overall} | group.by_domain).items():
            delta, interval, count = metrics.delta_nll, metrics.interval, metrics.count
            row = metric("ΔNLL@64, one block", "domain", domain, name, delta, interval, count)
            if name == "gist" and domain == "all":
                target = groups[DELETE].overall.delta_nll / 2
                row = replace(row, target="≤ half of delete", met=delta <= target)
            rows.append(row)
    return rows


def health_metrics(sessions: Sequence[Health]) -> list[Metric]:
    """Swap rate, residency, violations of sessions."""
    rows: list[Metric] = []
    for health in sessions:
        column, count = f"{health.tokens:,} tokens", health.refocuses
        swap, residency, violations = health.swap_rate, health.residency, health.violations
        for measure, value, target, met in (
            ("swap rate", swap, "0.05 to 0.20", swap is not None and 0.05 <= swap <= 0.20),
            ("residency", residency, "≥ 90%", residency is not None and residency >= 0.9),
            ("budget violations", float(violations), "0", violations == 0),
        ):
            row = metric(measure, "session", column, OURS, value, None, count)
            rows.append(replace(row, target=target, met=None if value is None else met))
    return rows


def overhead_metrics(overhead: Overhead) -> list[Metric]:
    """Cost of refocusing while decoding."""
    count, column = overhead.cycles, f"{overhead.cycles} blocks"
    ratio = metric(
        "refocus overhead", "session", column, OURS, overhead.ratio, overhead.interval, count
    )
    return [
        _with_target(ratio, "≤ 1.10", overhead.ratio <= 1.10),
        metric("ms per decoded token", "session", column, OURS, overhead.token_ms, None, count),
        metric("ms per refocus", "session", column, OURS, overhead.refocus_ms, None, count),
    ]
