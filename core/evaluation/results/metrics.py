"""Figures beside their targets: the rows of the suite's Parquet file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from megacontext.core.evaluation.tasks.answer_nll import RECALL_TEXT
from megacontext.core.evaluation.tasks.nll import Piece, summarize_nll
from megacontext.core.evaluation.tasks.overhead import Overhead
from megacontext.core.evaluation.tasks.recall import Result, summarize_recall
from megacontext.core.evaluation.tasks.session_health import Health

__all__ = [
    "Row",
    "health_rows",
    "nll_rows",
    "overhead_rows",
    "recall_rows",
    "single_rows",
]

_OURS = "ours"
_RECALL_BARS = {"16": 0.95, "64": 0.90}
_GAIN_BARS = {"code": 0.6, RECALL_TEXT: 0.9}


@dataclass(frozen=True)
class Row:
    """One figure with its 95 % interval.

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


def _row(
    measure: str,
    group: str,
    column: str,
    name: str,
    value: float | None,
    interval: Sequence[float] | None,
    count: int,
) -> Row:
    low, high = interval or (None, None)
    return Row(measure, group, column, name, value, low, high, count)


def _judged(row: Row, target: str, met: bool) -> Row:
    """Targets are ours alone."""
    return replace(row, target=target, met=met) if row.contender == _OURS else row


def recall_rows(results: Sequence[Result]) -> list[Row]:
    """Recall by length and by kind, gold expanded, refocuses until it was."""
    rows: list[Row] = []
    for name, own in summarize_recall(results).items():
        for times, cell in own.get("by_times", {}).items():
            where, count = f"{times}×", cell["count"]
            row = _row("recall", "history", where, name, cell["accuracy"], cell["interval"], count)
            if times in _RECALL_BARS:
                bar = _RECALL_BARS[times]
                row = _judged(row, f"≥ {bar:.0%}", cell["accuracy"] >= bar)
            rows.append(row)
            share = cell["gold_expanded"]
            if share is not None:
                row = _row(
                    "gold expanded", "history", where, name, share, cell["gold_interval"], count
                )
                rows.append(_judged(row, "≥ 95%", share >= 0.95))
            took = cell["refocuses"]
            if took is not None:
                reached = cell["reached"]
                row = _row("refocuses until expanded", "history", where, name, took, None, reached)
                rows.append(_judged(row, "≤ 2", took <= 2))
        for kind, cell in own.get("by_kind", {}).items():
            accuracy, interval = cell["accuracy"], cell["interval"]
            rows.append(_row("recall", "kind", kind, name, accuracy, interval, cell["count"]))
    return rows


def nll_rows(pieces: Sequence[Piece], seed: int, window: int) -> list[Row]:
    """ΔNLL, its 95th percentile, recovered gain and distance from ours, by domain and budget."""
    rows: list[Row] = []
    for name, own in summarize_nll(pieces, seed).items():
        for w_max, cell in own["by_w_max"].items():
            for domain, figures in cell.get("by_domain", {"all": cell}).items():
                rows += _nll_rows(domain, int(w_max), name, figures, window)
    return rows


def _nll_rows(
    domain: str, w_max: int, name: str, figures: Mapping[str, Any], window: int
) -> list[Row]:
    delta, count = figures["delta_nll"], figures["count"]
    where = f"W_max {w_max}"
    row = _row("ΔNLL@64", domain, where, name, delta, figures["interval"], count)
    if 4 * w_max <= window <= 16 * w_max and domain != RECALL_TEXT:
        row = _judged(row, "≤ 0.10", delta <= 0.10)  # the target is for compression 4x to 16x
    rows = [row]
    p95 = figures["delta_nll_p95"]
    rows.append(_row("ΔNLL@64, p95", domain, where, name, p95, None, count))
    gain = figures["recovered_gain"]
    if gain is not None and name != "delete":
        interval = figures["recovered_gain_interval"]
        row = _row("recovered gain", domain, where, name, gain, interval, count)
        bar = _GAIN_BARS.get(domain)
        rows.append(row if bar is None else _judged(row, f"≥ {bar}", gain >= bar))
    if figures["behind_ours"] is not None:
        behind, interval = figures["behind_ours"], figures["behind_ours_interval"]
        rows.append(_row("NLL above ours", domain, where, name, behind, interval, count))
    return rows


def single_rows(pieces: Sequence[Piece], seed: int) -> list[Row]:
    """One block replaced by its gist, its mean, nothing; by domain and over all."""
    if not pieces:
        return []
    figures = summarize_nll([replace(piece, w_max=0) for piece in pieces], seed)
    rows: list[Row] = []
    for name, own in figures.items():
        cells = {"all": own} | own.get("by_domain", {})
        for domain, cell in cells.items():
            delta, count = cell["delta_nll"], cell["count"]
            row = _row("ΔNLL@64, one block", "domain", domain, name, delta, cell["interval"], count)
            if name == "gist" and domain == "all":
                bar = figures["delete"]["delta_nll"] / 2
                row = replace(row, target="≤ half of delete", met=delta <= bar)
            rows.append(row)
    return rows


def health_rows(found: Sequence[Health]) -> list[Row]:
    """Swap rate, residency, violations of a session."""
    rows: list[Row] = []
    for health in found:
        where, count = f"{health.tokens:,} tokens", health.refocuses
        swap, kept, bad = health.swap_rate, health.residency, health.violations

        def add(
            measure: str,
            value: float | None,
            target: str,
            met: bool | None,
            where: str = where,
            count: int = count,
        ) -> None:
            rows.append(
                Row(measure, "session", where, _OURS, value, None, None, count, target, met)
            )

        add("swap rate", swap, "0.05 to 0.20", None if swap is None else 0.05 <= swap <= 0.20)
        add("residency", kept, "≥ 90%", None if kept is None else kept >= 0.9)
        add("budget violations", float(bad), "0", bad == 0)
    return rows


def overhead_rows(overhead: Overhead) -> list[Row]:
    """Cost of refocusing while decoding."""
    count = overhead.cycles
    where = f"{count} blocks"
    ratio = _row(
        "refocus overhead", "session", where, _OURS, overhead.ratio, overhead.interval, count
    )
    return [
        _judged(ratio, "≤ 1.10", overhead.ratio <= 1.10),
        _row("ms per decoded token", "session", where, _OURS, overhead.token_ms, None, count),
        _row("ms per refocus", "session", where, _OURS, overhead.refocus_ms, None, count),
    ]
