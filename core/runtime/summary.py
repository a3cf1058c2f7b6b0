"""The table at the end of a run, computed from its trace."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megacontext.core.runtime.script import Outcome
from megacontext.traces.alarms import alarms_of, hint_of
from megacontext.traces.metrics import metrics_of
from megacontext.traces.reader import TraceReader
from megacontext.traces.state import violations_of

__all__ = ["Summary", "print_summary", "summarize"]


@dataclass
class Summary:
    """Figures of one run, beside the trace's own metrics (see ``traces.metrics``)."""

    trace: str
    seconds: float
    tokens_per_s: float
    violations: int
    bad_scores: int
    stopped: bool
    answers: list[dict[str, Any]]
    metrics: dict[str, Any]
    decoded: list[str] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)


def summarize(path: Path, outcome: Outcome, seconds: float) -> Summary:
    """Read the trace back, check every row's invariants and measure."""
    with TraceReader.open(path) as reader:
        previous, violations = None, 0
        for row in reader.rows():
            violations += len(violations_of(row, reader.meta.block_size, previous))
            previous = row
        metrics = metrics_of(reader)
        alarms = alarms_of(reader)
    return Summary(
        trace=str(path),
        seconds=seconds,
        tokens_per_s=metrics["history_tokens"] / seconds if seconds else 0.0,
        violations=violations,
        bad_scores=outcome.bad_scores,
        stopped=outcome.stopped,
        answers=[asdict(a) | {"right": a.right} for a in outcome.answers],
        decoded=list(outcome.decoded),
        alarms=[asdict(alarm) | {"hint": hint_of(alarm.name)} for alarm in alarms],
        metrics=metrics,
    )


def print_summary(summary: Summary, console: Console, *, decoded: bool = True) -> None:
    """The summary as a table, behind it what was decoded.

    Args:
        decoded: show the decoded text; a conversation has shown its replies already.
    """
    table = Table(box=None, show_header=False, title="Run", title_justify="left")
    m = summary.metrics
    rows = [
        ("history", f"{m['history_tokens']:,} tokens, {summary.tokens_per_s:,.0f} tokens/s"),
        ("refocuses", f"{m['refocuses']:,} ({m['rows']:,} rounds)"),
        ("expands", f"{m['expands']:,}"),
        ("collapses", f"{m['collapses']:,} and {m['forced']:,} forced"),
        ("budget violations", f"{summary.violations}"),
        ("budget", f"{m['w_max']:,} entries, {_share(m['utilization'], 'used')}"),
        ("swap rate", _share(m["swap_rate"], "of the raw blocks per refocus")),
        ("residency", _share(m["residency"], "of the frontier survives a refocus")),
        ("NLL", f"{_nats(m['nll_ingest'])} ingested, {_nats(m['nll_decode'])} decoded"),
        ("trace", summary.trace),
    ]

    # Answers and alarms, where there are any, above the trace's name.
    checked = [a for a in summary.answers if a["right"] is not None]
    if checked:
        right = sum(a["right"] for a in checked)
        rows.insert(-1, ("answers", f"{right} of {len(checked)} right"))
    rows[-1:-1] = _alarm_rows(summary.alarms)
    for name, value in rows:
        table.add_row(name, escape(value))
    console.print(table)

    # What was asked and what was decoded.
    if summary.answers:
        answers = Table("asked about", "expected", "decoded", box=None)
        for answer in summary.answers:
            mark = {True: "[green]✓[/] ", False: "[red]✗[/] ", None: ""}[answer["right"]]
            said = [escape(answer[key].strip()) for key in ("about", "expected", "text")]
            answers.add_row(said[0], said[1], mark + said[2])
        console.print(answers)
    if decoded:
        for text in summary.decoded:
            console.print("\nDecoded", style="italic")
            console.print(escape(_printable(text.strip("\n"))), highlight=False)


def _alarm_rows(alarms: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """A line for each alarm: how often, first and worst value, where to read on."""
    rows = []
    for name in dict.fromkeys(alarm["name"] for alarm in alarms):
        raised = [alarm for alarm in alarms if alarm["name"] == name]
        first = raised[0]
        times = f", {len(raised)} times" if len(raised) > 1 else ""
        value = f"{first['value']:g} {first['side']} {first['bound']:g}"
        rows.append((f"alarm {name}", f"{value} from step {first['step']}{times}; {first['hint']}"))
    return rows


def _printable(text: str) -> str:
    """Decoded text may hold terminal escapes."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def _nats(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} nats/token"


def _share(value: float | None, of: str) -> str:
    return "not measured" if value is None else f"{value:.1%} {of}"
