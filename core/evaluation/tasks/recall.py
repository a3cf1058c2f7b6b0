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
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any

import numpy as np

from megacontext.core.evaluation.contenders.base import Sample, sample_config
from megacontext.core.evaluation.contenders.registry import CONTENDERS, takes_part
from megacontext.core.evaluation.sessions.base import AnswerResult
from megacontext.core.evaluation.sessions.history import token_spans
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.evaluation.tasks.intervals import wilson
from megacontext.core.evaluation.tasks.recall_tasks import RecallTask, answer_ids, prompt_ids
from megacontext.core.runtime.judge import is_right

__all__ = ["RECALL_CONTENDERS", "Result", "evaluate_recall", "is_right", "summarize_recall"]

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


def summarize_recall(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Metrics by contender, in order of appearance, with ``by_times`` and ``by_kind`` where known.

    ``gold_expanded`` is the fraction of tasks with known gold whose gold was all raw when the
    answer began; ``refocuses`` the mean number from the question's first token until it was, over
    these.
    """
    table: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(r.contender for r in results):
        of_contender = [r for r in results if r.contender == name]
        table[name] = _metrics(of_contender)
        for field in ("times", "kind"):
            groups: dict[Any, list[Result]] = {}
            for result in of_contender:
                if value := getattr(result, field):
                    groups.setdefault(value, []).append(result)
            if groups:
                metrics = {str(value): _metrics(groups[value]) for value in sorted(groups)}
                table[name][f"by_{field}"] = metrics
    return table


def _metrics(results: Sequence[Result]) -> dict[str, Any]:
    right, count = sum(r.right for r in results), len(results)
    known = [r for r in results if r.gold_raw is not None]
    expanded = sum(bool(r.gold_raw) for r in known)
    took = [r.refocuses for r in results if r.refocuses is not None]
    return {
        "accuracy": right / count,
        "interval": list(wilson(right, count)),
        "count": count,
        "gold_expanded": expanded / len(known) if known else None,
        "gold_interval": list(wilson(expanded, len(known))) if known else None,
        "refocuses": float(np.mean(took)) if took else None,
        "reached": len(took),
    }
