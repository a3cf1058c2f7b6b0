"""A session's metrics from its rows: one flat row a refocus, and what the whole run came to.

The totals have the names and the values of ``megacontext trace metrics``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from megacontext.core.telemetry.sinks import Span
from megacontext.traces.refocuses import Refocus
from megacontext.traces.row import TraceRow
from megacontext.traces.schema import Phase, Trigger

__all__ = ["RunTotals", "refocus_metrics", "refocus_span"]

_STAGES = ("us_gist", "us_lens", "us_alloc", "us_kv", "us_decode", "us_record")


def refocus_metrics(refocus: Refocus, rows: Sequence[TraceRow]) -> dict[str, float]:
    """What one refocus (all its rounds) was like; what was not measured is left out.

    Fractions are 0 to 1, times microseconds, NLL, drift and ΔNLL nats per token.
    """
    last = rows[-1]
    metrics = {
        "history_tokens": float(last.history_tokens),
        "w_max": float(last.w_max),
        "rounds": float(len(rows)),
        "raw_blocks": float(refocus.raw_blocks),
        "nodes": float(refocus.nodes),
        "expands": float(refocus.expands),
        "collapses": float(refocus.collapses - refocus.forced),
        "forced": float(refocus.forced),
        "swap_rate": refocus.swap_rate,
        "residency": refocus.residency,
        "utilization": refocus.utilization,
        "nll": refocus.nll,
        "kv_rows": float(sum(row.kv_rows for row in rows)),
        "scores_dropped": float(last.scores_dropped),
    }

    # Sampled: most rows have none.
    for row in rows:
        if row.kv_drift is not None:
            metrics["kv_drift"] = float(row.kv_drift)
        if row.delta_nll is not None:
            metrics["delta_nll"] = float(row.delta_nll)

    for stage in _STAGES:
        metrics[stage] = float(sum(getattr(row, stage) for row in rows))
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def refocus_span(metrics: dict[str, float], rows: Sequence[TraceRow]) -> Span:
    """The refocus as a span: its lens, allocator and cache time, up to when it was recorded."""
    elapsed_us = sum(metrics[stage] for stage in ("us_lens", "us_alloc", "us_kv"))
    end_ns = rows[-1].t_ns
    names = ("swap_rate", "residency", "utilization", "nll", "kv_drift", "delta_nll", "rounds")
    attributes: dict[str, str | int | float] = {
        "megacontext.refocus.step": rows[0].step,
        "megacontext.refocus.trigger": Trigger(rows[0].trigger).name.lower(),
        "megacontext.refocus.phase": Phase(rows[0].phase).name.lower(),
    }
    attributes |= {f"megacontext.refocus.{n}": metrics[n] for n in names if n in metrics}
    return Span("refocus", end_ns - int(elapsed_us * 1e3), end_ns, attributes)


class _Mean:
    def __init__(self) -> None:
        self.sum = self.max = 0.0
        self.count = 0

    def add(self, value: float | None) -> None:
        if value is not None and math.isfinite(value):
            self.max = value if not self.count else max(self.max, value)
            self.sum, self.count = self.sum + value, self.count + 1

    @property
    def value(self) -> float:
        return self.sum / self.count if self.count else math.nan


class RunTotals:
    """Sums over all refocuses of a run so far."""

    def __init__(self) -> None:
        names = ("swap_rate", "residency", "utilization", "kv_drift", "delta_nll")
        self._means = {name: _Mean() for name in names}
        self._nll = dict.fromkeys(Phase, (0.0, 0))
        self._sums = dict.fromkeys(("refocuses", "rows", "expands", "collapses", "forced"), 0)
        self._voluntary = self._reversals = 0
        self._first_ns = self._last_ns = self._first_tokens = self._tokens = 0

    def add(self, refocus: Refocus, rows: Sequence[TraceRow]) -> None:
        """Take one whole refocus."""
        for name in ("swap_rate", "residency", "utilization"):
            self._means[name].add(getattr(refocus, name))
        for row in rows:
            self._means["kv_drift"].add(row.kv_drift)
            self._means["delta_nll"].add(row.delta_nll)
        phase = Phase(rows[0].phase)
        total, count = self._nll[phase]
        self._nll[phase] = total + refocus.nll_sum, count + refocus.nll_count
        self._sums["refocuses"] += 1
        self._sums["rows"] += len(rows)
        self._sums["expands"] += refocus.expands
        self._sums["collapses"] += refocus.collapses - refocus.forced
        self._sums["forced"] += refocus.forced
        self._voluntary += refocus.voluntary
        self._reversals += refocus.reversals
        if not self._first_ns:
            self._first_ns, self._first_tokens = rows[0].t_ns, rows[-1].history_tokens
        self._last_ns, self._tokens = rows[-1].t_ns, rows[-1].history_tokens

    def values(self) -> dict[str, float]:
        """``run.*`` by name; what was not measured is left out."""
        means = self._means
        sums = [total for total, _ in self._nll.values()], [n for _, n in self._nll.values()]
        seconds = (self._last_ns - self._first_ns) / 1e9
        values = {name: float(count) for name, count in self._sums.items()} | {
            "history_tokens": float(self._tokens),
            "swap_rate": means["swap_rate"].value,
            "residency": means["residency"].value,
            "utilization": means["utilization"].value,
            "thrash": self._reversals / self._voluntary if self._voluntary else 0.0,
            "kv_drift_mean": means["kv_drift"].value,
            "kv_drift_max": means["kv_drift"].max if means["kv_drift"].count else math.nan,
            "delta_nll": means["delta_nll"].value,
            "nll": sum(sums[0]) / sum(sums[1]) if sum(sums[1]) else math.nan,
            "tokens_per_s": (self._tokens - self._first_tokens) / seconds if seconds else math.nan,
        }
        for phase, (total, count) in self._nll.items():
            values[f"nll_{phase.name.lower()}"] = total / count if count else math.nan
        return {f"run.{name}": v for name, v in values.items() if math.isfinite(v)}
