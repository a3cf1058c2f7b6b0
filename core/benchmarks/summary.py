"""Scores, retention and causes of wrong answers by task, length and contender."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from megacontext.core.benchmarks.ruler import COUNTING
from megacontext.core.benchmarks.run import BenchResult
from megacontext.core.evaluation.results.tables import Table, markdown, percent
from megacontext.core.evaluation.tasks.intervals import Interval, bootstrap, wilson

__all__ = ["MEAN", "Cell", "figures_of", "length_name", "page", "summarize", "tables_of"]

MEAN = "mean"
"""Stands for all tasks that can be focused."""


@dataclass(frozen=True)
class Cell:
    """One contender on one task, or on all that can be focused, at one length.

    Attributes:
        interval: 95 %: Wilson for a task, bootstrap over histories for the mean.
        count: questions.
        retention: score over the same model's score with all of the shortest length in its
            window, over the same tasks; None where that was not measured or is 0.
        causes: of the wrong answers with known gold, how many by cause.
        reasons: of those not expanded, how many by reason.
        known: questions with known gold.
        raw: of these, how many had all of it raw when the answer began.
        rank: median rank of the gold in what the lens scored.
    """

    length: int
    task: str
    contender: str
    score: float
    interval: Interval
    count: int
    retention: float | None
    causes: dict[str, int]
    reasons: dict[str, int]
    known: int
    raw: int
    rank: float | None
    seconds: float


def length_name(length: int) -> str:
    """``4096`` as ``4k``, ``1048576`` as ``1M``; ``0k``: no text but what matters."""
    if length == 0:
        return "0k"
    for unit, name in ((1 << 20, "M"), (1 << 10, "k")):
        if length >= unit and length % unit == 0:
            return f"{length // unit}{name}"
    return f"{length:,}"


def summarize(results: Sequence[BenchResult], seed: int = 0) -> list[Cell]:
    """Cells in order of length, task and contender as they first appear; the mean comes last."""
    base = _base_scores(results)
    cells: list[Cell] = []
    lengths = sorted({r.length for r in results})
    contenders = list(dict.fromkeys(r.contender for r in results))
    for length in lengths:
        here = [r for r in results if r.length == length]
        names = list(dict.fromkeys(r.name for r in here))
        for name in names:
            for contender in contenders:
                own = [r for r in here if r.name == name and r.contender == contender]
                if own:
                    total = sum(r.score for r in own)
                    interval = wilson(total, len(own))  # type: ignore[arg-type]  # shares add up
                    retention = _ratio(_mean(own), base.get(name))
                    cells.append(_cell(length, name, contender, own, interval, retention))

        # The mean counts tasks alike and leaves out those that nothing can be focused for.
        for contender in contenders:
            own = [r for r in here if r.contender == contender and r.name not in COUNTING]
            if own:
                before = [base[name] for name in dict.fromkeys(r.name for r in own) if name in base]
                whole = len(before) == len({r.name for r in own})
                retention = _ratio(_task_mean(own), float(np.mean(before))) if whole else None
                interval = _over_histories(own, seed)
                cells.append(_cell(length, MEAN, contender, own, interval, retention))
    return cells


def _mean(results: Sequence[BenchResult]) -> float:
    return sum(r.score for r in results) / len(results)


def _task_mean(results: Sequence[BenchResult]) -> float:
    """Every task counts the same."""
    names = dict.fromkeys(r.name for r in results)
    return float(np.mean([_mean([r for r in results if r.name == name]) for name in names]))


def _base_scores(results: Sequence[BenchResult]) -> dict[str, float]:
    """By task, the score of ``full`` at the shortest length."""
    full = [r for r in results if r.contender == "full"]
    if not full:
        return {}
    min_length = min(r.length for r in results)
    names = dict.fromkeys(r.name for r in full if r.length == min_length)
    return {
        name: _mean([r for r in full if r.length == min_length and r.name == name])
        for name in names
    }


def _ratio(score: float, base: float | None) -> float | None:
    return score / base if base else None


def _over_histories(results: Sequence[BenchResult], seed: int) -> Interval:
    """Questions about one history are no independent draws."""
    names = list(dict.fromkeys(r.history for r in results))
    sums = np.zeros((len(names), 2))
    position = {name: i for i, name in enumerate(names)}
    for r in results:
        sums[position[r.history]] += (r.score, 1)

    def mean(pick: np.ndarray) -> float:
        total, count = sums[pick].sum(0)
        return float(total / count)

    found = bootstrap(mean, len(names), seed, f"bench.{results[0].contender}")
    return (0.0, 1.0) if found is None else found


def _cell(
    length: int,
    task: str,
    contender: str,
    own: Sequence[BenchResult],
    interval: Interval,
    retention: float | None,
) -> Cell:
    known = [r for r in own if r.gold_raw is not None]
    ranks = [r.rank for r in own if r.rank is not None]
    return Cell(
        length=length,
        task=task,
        contender=contender,
        score=_task_mean(own),
        interval=interval,
        count=len(own),
        retention=retention,
        causes=dict(Counter(r.cause for r in own if r.cause)),
        reasons=dict(Counter(r.reason for r in own if r.reason)),
        known=len(known),
        raw=sum(bool(r.gold_raw) for r in known),
        rank=float(median(ranks)) if ranks else None,
        seconds=float(np.mean([r.seconds for r in own])),
    )


def figures_of(cells: Sequence[Cell]) -> dict[str, Any]:
    """For ``--json``: by length, by task, by contender."""
    metrics: dict[str, Any] = {}
    for cell in cells:
        own = {
            "score": cell.score,
            "interval": list(cell.interval),
            "count": cell.count,
            "retention": cell.retention,
            "gold_expanded": cell.raw / cell.known if cell.known else None,
            "rank": cell.rank,
            "causes": cell.causes,
            "reasons": cell.reasons,
            "seconds": cell.seconds,
        }
        by_task = metrics.setdefault(str(cell.length), {})
        by_task.setdefault(cell.task, {})[cell.contender] = own
    return metrics


def _number(cell: Cell) -> str:
    low, high = cell.interval
    return f"{cell.score:.2f} [{low:.2f}, {high:.2f}]"


def _means(cells: Sequence[Cell]) -> Table:
    """Contenders down, lengths across."""
    means = [cell for cell in cells if cell.task == MEAN]
    lengths = list(dict.fromkeys(cell.length for cell in means))
    rows: Table = []
    for contender in dict.fromkeys(cell.contender for cell in means):
        row = {"contender": contender}
        for length in lengths:
            own = [c for c in means if c.contender == contender and c.length == length]
            name = length_name(length)
            row[name] = _number(own[0]) if own else "–"
            kept = own[0].retention if own else None
            row[f"retention at {name}"] = "–" if kept is None else f"{kept:.2f}"
        rows.append(row)
    return rows


def _by_task(cells: Sequence[Cell], length: int, counting: bool) -> Table:
    """Tasks down, contenders across."""
    here = [c for c in cells if c.length == length and (c.task in COUNTING) == counting]
    here = [c for c in here if c.task != MEAN]
    rows: Table = []
    for task in dict.fromkeys(cell.task for cell in here):
        own = {cell.contender: cell for cell in here if cell.task == task}
        row = {"task": task, "n": str(max(cell.count for cell in own.values()))}
        for contender in dict.fromkeys(cell.contender for cell in here):
            row[contender] = _number(own[contender]) if contender in own else "–"
        rows.append(row)
    return rows


def _causes(cells: Sequence[Cell]) -> Table:
    """Why answers were wrong: shares of all questions with known gold."""
    rows: Table = []
    for cell in (c for c in cells if c.task == MEAN and c.known):
        wrong = sum(cell.causes.values())
        row = {
            "length": length_name(cell.length),
            "contender": cell.contender,
            "wrong": f"{wrong} of {cell.known}",
        }
        for cause in ("not scored high", "not expanded", "expanded and misread"):
            row[cause] = percent(cell.causes.get(cause, 0) / cell.known)
        reasons = sorted(cell.reasons.items(), key=lambda item: -item[1])
        row["why not expanded"] = ", ".join(f"{why} {n}" for why, n in reasons) or "–"
        row["gold raw"] = percent(cell.raw / cell.known)
        row["median rank"] = "–" if cell.rank is None else f"{cell.rank:.0f}"
        rows.append(row)
    return rows


_NOTE = """Values in brackets are 95 % intervals: Wilson for a task, bootstrap over histories for
the mean. Retention is the score over the same model's own score with the whole text in its window
at the shortest length. All contenders have the same budget; `full` has the trained window and takes
part only where the text fits it. A wrong answer whose gold is known has one cause: no score above
the threshold for some part of the gold (or, of a retriever, not among its blocks); scored, but not
expanded; or all of it raw as the answer began, and misread. An answer that is partly right counts
as wrong there.
"""


def tables_of(cells: Sequence[Cell]) -> list[tuple[str, Table]]:
    """(title, table): the means, the causes, every task at every length."""
    tables = [
        ("Mean over the tasks that can be focused", _means(cells)),
        ("Causes of wrong answers", _causes(cells)),
    ]
    for length in dict.fromkeys(cell.length for cell in cells):
        name = length_name(length)
        tables.append((f"Tasks at {name}", _by_task(cells, length, counting=False)))
        counting = _by_task(cells, length, counting=True)
        tables.append((f"Counting at {name}, which cannot be focused", counting))
    return [(title, rows) for title, rows in tables if rows]


def page(title: str, about: str, cells: Sequence[Cell], picture: str = "") -> str:
    """The tables as Markdown, under what they were made with."""
    parts = [f"# {title}", about, _NOTE.rstrip()]
    parts += [f"![Score over length]({picture})"] if picture else []
    for name, rows in tables_of(cells):
        parts += [f"## {name}", markdown(rows).rstrip()]
    return "\n\n".join(parts) + "\n"
