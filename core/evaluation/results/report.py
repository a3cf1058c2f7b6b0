"""Tables for people: an evaluation's rows as Markdown, and several of them as one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from megacontext.core.evaluation.contenders.registry import CONTENDERS
from megacontext.core.evaluation.results.metrics import Metric
from megacontext.core.evaluation.results.provenance import About
from megacontext.core.evaluation.results.tables import Table, markdown
from megacontext.core.evaluation.results.trace_questions import AskedInRun, questions_of
from megacontext.traces.errors import SourceError
from megacontext.traces.reader import TraceReader

__all__ = ["page", "questions_table", "read_rows", "section", "tables_of", "targets_table"]

_INTRO = """# Results

Written by `megacontext eval report`; every table comes from the command above it. Values in
brackets are 95 % intervals: Wilson for fractions, bootstrap over documents for means. All
contenders have the same budget W_max. Only `full` has none: it takes part where the whole history
fits the trained window.

"""
_CONTENDERS = "\n".join(f"* `{name}`: {contender.what}" for name, contender in CONTENDERS.items())
_HOW = """
How it is measured:

* **Recall.** Keys, values and wording are of a split that no training text uses. Several facts in
  the same wording stand in each history; the newest 1.25 W_max tokens hold none. The answer is
  decoded greedily up to the line end and must start with the expected one. Case and quotes do not
  matter, nor the order of several values. The tree is built without the model reading the history,
  and the focus starts cold before the question: newest blocks raw, the rest coarse. Gold counts as
  expanded when every token of it is raw as the answer begins.
* **ΔNLL@64.** Mean NLL of the next 64 tokens minus that of `full`, at the end of windows of the
  trained length: four times in a row, or once with `--quick`. The 8 blocks before them are read
  with refocuses. n counts the stretches; intervals are over documents. "NLL above ours" is the mean
  difference over the same documents. Recovered gain is the fraction of the cost of `delete` that a
  contender recovers. It has no value where the interval of that cost reaches 0.
* **Recall text.** The same on the tokens of answers, after questions about facts that are older
  than the largest budget.
* **One block.** The newest unprotected block is replaced by its gist, its mean or nothing. All
  others stay raw.
* **Refocus overhead.** Time of decoding with refocuses over the time without, in the same session.
  A refocus costs the same beside a large model, whose tokens cost far more:
  [performance](performance.md).
* **Ablations.** The window follows every refocus by the session's own edits, over `lead` blocks
  before the scored tokens. "NLL above the first row" is the mean difference over the same windows.
"""


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _number(value: float) -> str:
    return f"{value:.2f}"


def _three_digits(value: float) -> str:
    return f"{value:.3f}"


Format = Callable[[float], str]
_FORMATS: dict[str, Format] = {
    "recall": _percent,
    "gold expanded": _percent,
    "residency": _percent,
    "refocuses until expanded": _number,
    "recovered gain": _number,
    "budget violations": lambda value: f"{value:.0f}",
}


def _cell(row: Metric) -> str:
    if row.value is None:
        return "–"
    form = _FORMATS.get(row.measure, _three_digits)
    interval = (
        "" if row.low is None or row.high is None else f" [{form(row.low)}, {form(row.high)}]"
    )
    return form(row.value) + interval


def targets_table(rows: Sequence[Metric]) -> Table:
    """What has a target: ours beside it."""
    return [
        {
            "measure": row.measure,
            "of": f"{row.group} {row.column}".removeprefix("session "),
            "ours": _cell(row),
            "n": str(row.count),
            "target": row.target,
            "": "met" if row.met else "**missed**",
        }
        for row in rows
        if row.met is not None
    ]


def tables_of(rows: Sequence[Metric]) -> list[tuple[str, Table]]:
    """(title, table) for every measure and group, in order of appearance."""
    keys = dict.fromkeys((row.measure, row.group) for row in rows)
    return [
        (_title(measure, group), _pivot([r for r in rows if (r.measure, r.group) == key]))
        for key in keys
        for measure, group in (key,)
    ]


def _title(measure: str, group: str) -> str:
    return {
        "history": f"{measure}, by length of history".capitalize(),
        "kind": f"{measure}, by kind of fact".capitalize(),
        "session": measure.capitalize(),
        "domain": measure,
    }.get(group, f"{measure}: {group}")


def _pivot(rows: Sequence[Metric]) -> Table:
    """Contenders down, columns across; the count is in a column's head where it is one."""
    heads: dict[str, str] = {}
    for column in dict.fromkeys(row.column for row in rows):
        counts = {row.count for row in rows if row.column == column}
        heads[column] = f"{column} (n = {counts.pop()})" if len(counts) == 1 else column
    cells = {(row.contender, row.column): _cell(row) for row in rows}
    return [
        {"": name} | {head: cells.get((name, column), "–") for column, head in heads.items()}
        for name in dict.fromkeys(row.contender for row in rows)
    ]


def _ablation_tables(rows: Sequence[Metric]) -> list[tuple[str, Table]]:
    """One table a group: variants down, measures across."""
    tables = []
    for group in dict.fromkeys(row.group for row in rows):
        of_group = [row for row in rows if row.group == group]
        columns = dict.fromkeys((row.measure, row.column, row.count) for row in of_group)
        cells = {(row.contender, row.measure, row.column): _cell(row) for row in of_group}
        table = [
            {"": name}
            | {
                f"{measure}, {column} (n = {count})": cells.get((name, measure, column), "–")
                for measure, column, count in columns
            }
            for name in dict.fromkeys(row.contender for row in of_group)
        ]
        tables.append((group, table))
    return tables


def read_rows(folder: Path, kind: str) -> list[Metric]:
    """The rows that an evaluation left in ``folder``.

    Raises:
        SourceError: no readable file.
    """
    path = folder / f"{kind}.parquet"
    try:
        return [Metric(**record) for record in pq.read_table(path).to_pylist()]
    except (OSError, TypeError, pa.ArrowException) as error:
        raise SourceError(f"{path} is no table of figures; run eval {kind} again.") from error


def section(about: About, rows: Sequence[Metric], level: str = "##") -> str:
    """One evaluation: what it was made with, targets, tables."""
    label = "Ablations" if about.kind == "ablations" else "Suite"
    lines = [
        f"{level} {label}, {about.date}",
        f"```\n{about.command}\n```",
        f"Commit {about.commit or 'unknown'}, weights {about.weights[:12]}; {about.machine}; "
        f"{about.workers} processes, {about.seconds / 60:.1f} minutes"
        + (
            f", {about.cpu_seconds / 60:.1f} of CPU time, load {about.load:.1f}."
            if about.cpu_seconds
            else "."
        )
        + "".join(f" Note: {note}." for note in about.notes),
    ]

    # What has a target first, then every table.
    tables = _ablation_tables(rows) if about.kind == "ablations" else tables_of(rows)
    targets = targets_table(rows)
    if targets:
        met = sum(row.met for row in rows if row.met is not None)
        lines += [f"{level}# Targets: {met} of {len(targets)} met", markdown(targets).rstrip()]
    for title, table in tables:
        lines += [f"{level}# {title}", markdown(table).rstrip()]
    return "\n\n".join(lines) + "\n"


def trace_section(trace: Path) -> str:
    """The questions of a recorded run.

    Raises:
        TraceError: no trace of a scripted run with questions.
    """
    with TraceReader.open(trace) as reader:
        created, commit = reader.meta.created, reader.meta.git[:7]
    asked = questions_of(trace)
    good = sum(q.refocuses is not None and q.refocuses <= 2 and q.right for q in asked)
    lines = [
        f"## Questions of a recorded run, {created}",
        f"```\nmegacontext eval questions {trace} --need 9\n```",
        f"Recorded at commit {commit or '?'}; expanded within 2 refocuses and answered right: "
        f"{good} of {len(asked)}.",
        markdown(questions_table(asked)).rstrip(),
    ]
    return "\n\n".join(lines) + "\n"


def questions_table(asked: Sequence[AskedInRun]) -> Table:
    """One row a question."""
    return [
        {
            "about": q.about,
            "refocuses": "–" if q.refocuses is None else str(q.refocuses),
            "expected": q.expected,
            "decoded": q.answer,
            "": "right" if q.right else "**wrong**",
        }
        for q in asked
    ]


def page(folders: Sequence[Path], traces: Sequence[Path] = ()) -> str:
    """``docs/results.md`` of several evaluations and recorded runs.

    Raises:
        SourceError: a folder holds no evaluation.
        TraceError: a trace without questions.
    """
    parts = []
    for folder in folders:
        about = About.read(folder)
        parts.append(section(about, read_rows(folder, about.kind)))
    parts += [trace_section(trace) for trace in traces]
    return _INTRO + _CONTENDERS + "\n" + _HOW + "\n" + "\n".join(parts)
