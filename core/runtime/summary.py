"""The table at the end of a run, computed from its trace."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from megacontext.core.runtime.session import Outcome
from megacontext.traces.reader import TraceReader
from megacontext.traces.schema import ActionKind, Phase

__all__ = ["Summary", "print_summary", "summarize"]


@dataclass
class Summary:
    """Figures of one run; counts of actions, shares from 0 to 1, nats per token."""

    trace: str
    history_tokens: int = 0
    refocuses: int = 0
    rounds: int = 0
    expands: int = 0
    collapses: int = 0
    forced_collapses: int = 0
    violations: int = 0
    bad_scores: int = 0
    w_max: int = 0
    utilization: float = 0.0
    swap_rate: float = 0.0
    residency: float = 0.0
    nll_ingest: float | None = None
    nll_decode: float | None = None
    seconds: float = 0.0
    tokens_per_s: float = 0.0
    answers: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False


def summarize(path: Path, outcome: Outcome, seconds: float) -> Summary:
    """Read the trace back, check every row's invariants and count."""
    from megacontext.traces.metrics import metrics_of
    from megacontext.traces.state import violations_of

    summary = Summary(trace=str(path), seconds=seconds, stopped=outcome.stopped)
    nll: dict[int, list[np.ndarray]] = {Phase.INGEST: [], Phase.DECODE: []}
    with TraceReader.open(path) as reader:
        previous = None
        for row in reader.rows(0, reader.num_rows):
            summary.rounds += 1
            summary.refocuses += row.round == 0
            voluntary = row.actions[~row.actions["forced"]]
            summary.expands += int((voluntary["kind"] == ActionKind.EXPAND).sum())
            summary.collapses += int((voluntary["kind"] == ActionKind.COLLAPSE).sum())
            summary.forced_collapses += int(row.actions["forced"].sum())
            summary.violations += len(violations_of(row, reader.meta.block_size, previous))
            nll[row.phase].append(row.new_nll)
            previous = row
        if previous is not None:
            summary.history_tokens, summary.w_max = previous.history_tokens, previous.w_max
        figures = metrics_of(reader)
    summary.utilization = figures["utilization"]
    summary.swap_rate = figures["swap_rate"]
    summary.residency = figures["residency"]
    summary.nll_ingest, summary.nll_decode = (_mean(nll[p]) for p in (Phase.INGEST, Phase.DECODE))
    summary.tokens_per_s = summary.history_tokens / seconds if seconds else 0.0
    summary.bad_scores = outcome.bad_scores
    summary.answers = [asdict(a) | {"right": a.right} for a in outcome.answers]
    return summary


def _mean(parts: list[np.ndarray]) -> float | None:
    values = np.concatenate(parts) if parts else np.empty(0)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def print_summary(summary: Summary, console: Console) -> None:
    """The summary as a table."""
    table = Table(box=None, show_header=False, title="Run", title_justify="left")
    rows = [
        ("history", f"{summary.history_tokens:,} tokens, {summary.tokens_per_s:,.0f} tokens/s"),
        ("refocuses", f"{summary.refocuses:,} ({summary.rounds:,} rounds)"),
        ("expands", f"{summary.expands:,}"),
        ("collapses", f"{summary.collapses:,} and {summary.forced_collapses:,} forced"),
        ("budget violations", f"{summary.violations}"),
        ("budget", f"{summary.w_max:,} entries, {summary.utilization:.0%} used"),
        ("swap rate", f"{summary.swap_rate:.3f} of the raw blocks per refocus"),
        ("residency", f"{summary.residency:.1%} of the frontier survives a refocus"),
        ("NLL", f"{_nats(summary.nll_ingest)} ingested, {_nats(summary.nll_decode)} decoded"),
        ("trace", summary.trace),
    ]
    checked = [a for a in summary.answers if a["right"] is not None]
    if checked:
        right = sum(a["right"] for a in checked)
        rows.insert(-1, ("answers", f"{right} of {len(checked)} right"))
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    if summary.answers:
        answers = Table("asked about", "expected", "decoded", box=None)
        for answer in summary.answers:
            mark = {True: "[green]✓[/] ", False: "[red]✗[/] ", None: ""}[answer["right"]]
            text = answer["text"].strip().replace("[", r"\[")
            answers.add_row(answer["about"], answer["expected"], mark + text)
        console.print(answers)


def _nats(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} nats/token"
