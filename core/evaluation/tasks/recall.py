"""Recall: questions about facts far outside the window, for ours and the controls.

Two modes. ``stream`` is the session as it runs: the model reads the whole history block by block,
with a refocus at each. ``fast`` differs in three ways and is otherwise the same code: the tree is
built without the model reading the history; the working context starts cold over it (newest
blocks raw, then level-1 gists, then the coarsest that fit), so the question's refocuses begin
from there and not from where earlier text had moved the focus; and the window is computed once,
from scratch, after them. A lens that reads the model's hidden states or attention gets that
window before the question and follows it by the session's own edits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, product
from typing import Any

import numpy as np

from megacontext.core.evaluation.contenders.base import Sample, sample_config
from megacontext.core.evaluation.contenders.registry import CONTENDERS, takes_part
from megacontext.core.evaluation.sessions.base import AnswerResult
from megacontext.core.evaluation.sessions.history import token_spans
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.evaluation.tasks.intervals import Interval, wilson
from megacontext.core.evaluation.tasks.recall_tasks import RecallTask, answer_ids, prompt_ids
from megacontext.core.runtime.judge import is_right

__all__ = [
    "RECALL_CONTENDERS",
    "RecallMetrics",
    "RecallSummary",
    "Result",
    "evaluate_recall",
    "is_right",
    "summarize_recall",
]

RECALL_CONTENDERS = ["ours", "recency", "random", "bm25", "oracle", "gists", "full"]


@dataclass(frozen=True)
class Result:
    """One contender on one task (``task``: its number)."""

    task: int
    contender: str
    kind: str
    times: int
    right: bool
    text: str
    gold_raw: bool | None
    refocuses: int | None


def evaluate_recall(
    workspace: EvalWorkspace,
    tasks: Sequence[RecallTask],
    contenders: Sequence[str],
    *,
    stream: bool = False,
    follow: bool = False,
    template: str | None = None,
    first: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Every contender on every task that it can take part in.

    ``oracle`` needs ``gold``, ``full`` a history that fits the trained window.

    Args:
        follow: the window follows the question's refocuses by the session's own edits.
        template: see :func:`.tasks.prompt_ids`.
        first: number of the first task; contenders that draw, draw by it.

    Raises:
        BudgetError: a history is too long for the budget and number of levels.
    """
    results: dict[tuple[int, str], Result] = {}
    done, total = 0, len(tasks) * len(contenders)

    # Contenders one after the other, so that raw rows stay from question to question.
    numbered = enumerate(tasks, first)
    for _, group in groupby(numbered, key=lambda pair: pair[1].history):
        of_history = list(group)
        for name, (number, task) in product(contenders, of_history):
            answer = _ask(workspace, task, name, number, template, stream=stream, follow=follow)
            if answer is not None:
                results[number, name] = _result(number, name, task, answer)
            done += 1
            progress(done, total)

    order = product(range(first, first + len(tasks)), contenders)
    return [results[key] for key in order if key in results]


def _result(number: int, name: str, task: RecallTask, answer: AnswerResult) -> Result:
    return Result(
        task=number,
        contender=name,
        kind=task.kind,
        times=task.times,
        right=is_right(answer.text, task.answer, task.kind),
        text=answer.text,
        gold_raw=answer.gold_raw,
        refocuses=answer.refocuses,
    )


def _ask(
    workspace: EvalWorkspace,
    task: RecallTask,
    name: str,
    number: int,
    template: str | None,
    *,
    stream: bool,
    follow: bool,
) -> AnswerResult | None:
    """The contender's answer, or None if it cannot take part."""
    history = workspace.history(task.history)
    gold = token_spans(history.offsets, task.gold)
    tokenizer = workspace.base.tokenizer
    prompt = prompt_ids(tokenizer, task.question, template)
    limit = max(16, len(answer_ids(tokenizer, task.answer)) + 6)
    read = len(history.tokens)
    if not takes_part(name, workspace, gold, read + len(prompt) + limit):
        return None
    config = sample_config(workspace.config, number)
    sample = Sample(config, history, read, gold, stream, follow)
    session = CONTENDERS[name].open(workspace, sample)
    return session.ask(prompt, limit, "" if "\n" in task.answer.strip() else "\n")


@dataclass(frozen=True)
class RecallMetrics:
    """One contender on some tasks.

    Attributes:
        accuracy, interval: fraction of right answers.
        gold_expanded, gold_interval: of the tasks with known gold, the fraction whose gold was all
            raw when the answer began; None if no gold is known.
        refocuses: mean number from the question's first token until it was; None if it never was.
        reached: tasks that this mean is over.
    """

    accuracy: float
    interval: Interval
    count: int
    gold_expanded: float | None
    gold_interval: Interval | None
    refocuses: float | None
    reached: int


@dataclass(frozen=True)
class RecallSummary:
    """One contender on all tasks, by length of history and by kind where these are known."""

    overall: RecallMetrics
    by_times: dict[int, RecallMetrics]
    by_kind: dict[str, RecallMetrics]

    def to_json(self) -> dict[str, Any]:
        """The keys of ``eval recall --json``."""
        record = asdict(self.overall)
        for key, groups in (("by_times", self.by_times), ("by_kind", self.by_kind)):
            if groups:
                record[key] = {str(value): asdict(m) for value, m in groups.items()}
        return record


def summarize_recall(results: Sequence[Result]) -> dict[str, RecallSummary]:
    """Metrics by contender, in order of appearance."""
    contenders: dict[str, list[Result]] = {}
    for result in results:
        contenders.setdefault(result.contender, []).append(result)
    return {
        name: RecallSummary(
            _metrics(of_contender),
            {
                t: _metrics([r for r in of_contender if r.times == t])
                for t in sorted({r.times for r in of_contender if r.times})
            },
            {
                k: _metrics([r for r in of_contender if r.kind == k])
                for k in sorted({r.kind for r in of_contender if r.kind})
            },
        )
        for name, of_contender in contenders.items()
    }


def _metrics(results: Sequence[Result]) -> RecallMetrics:
    right, count = sum(r.right for r in results), len(results)
    with_gold = [r for r in results if r.gold_raw is not None]
    expanded = sum(bool(r.gold_raw) for r in with_gold)
    refocuses = [r.refocuses for r in results if r.refocuses is not None]
    return RecallMetrics(
        accuracy=right / count,
        interval=wilson(right, count),
        count=count,
        gold_expanded=expanded / len(with_gold) if with_gold else None,
        gold_interval=wilson(expanded, len(with_gold)) if with_gold else None,
        refocuses=float(np.mean(refocuses)) if refocuses else None,
        reached=len(refocuses),
    )
