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
from itertools import groupby
from typing import Any

import numpy as np

from megacontext.core.evaluation.contenders.engine_contender import Asked
from megacontext.core.evaluation.contenders.registry import sample_config, take_seat
from megacontext.core.evaluation.contenders.workspace import Kit, token_spans
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
    kit: Kit,
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
    found: dict[tuple[int, str], Result] = {}
    done, total = 0, len(tasks) * len(contenders)
    numbered = enumerate(tasks, first)
    for _, group in groupby(numbered, key=lambda pair: pair[1].history):
        own = list(group)
        for name in contenders:  # one after the other: raw rows stay from question to question
            for number, task in own:
                asked = _ask(kit, task, name, number, template, stream=stream, follow=follow)
                if asked is not None:
                    right = is_right(asked.text, task.answer, task.kind)
                    found[number, name] = Result(
                        number,
                        name,
                        task.kind,
                        task.times,
                        right,
                        asked.text,
                        asked.gold_raw,
                        asked.refocuses,
                    )
                done += 1
                progress(done, total)
    order = ((number, name) for number in range(first, first + len(tasks)) for name in contenders)
    return [found[key] for key in order if key in found]


def _ask(
    kit: Kit,
    task: RecallTask,
    name: str,
    number: int,
    template: str | None,
    *,
    stream: bool,
    follow: bool,
) -> Asked | None:
    """The contender's answer, or None where it cannot take part."""
    history = kit.history(task.history)
    gold = token_spans(history.offsets, task.gold)
    tokenizer = kit.base.tokenizer
    prompt = prompt_ids(tokenizer, task.question, template)
    limit = max(16, len(answer_ids(tokenizer, task.answer)) + 6)
    read = len(history.tokens)
    if name == "oracle" and not len(gold):
        return None
    if name == "full" and read + len(prompt) + limit > kit.base.window:
        return None
    config = sample_config(kit.config, number)
    seat = take_seat(name, kit, config, history, read, gold, stream=stream, follow=follow)
    return seat.ask(prompt, limit, "" if "\n" in task.answer.strip() else "\n")


def summarize_recall(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Figures by contender, in order of appearance, with ``by_times`` and ``by_kind`` where known.

    ``gold_expanded`` is the share of tasks with known gold whose gold was all raw when the answer
    began; ``refocuses`` the mean number from the question's first token until it was, over these.
    """
    table: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(r.contender for r in results):
        own = [r for r in results if r.contender == name]
        table[name] = _figures(own)
        for key, values in (
            ("by_times", {r.times for r in own if r.times}),
            ("by_kind", {r.kind for r in own if r.kind}),
        ):
            if values:
                field = key.removeprefix("by_")
                table[name][key] = {
                    str(v): _figures([r for r in own if getattr(r, field) == v])
                    for v in sorted(values, key=lambda v: (isinstance(v, str), v))
                }
    return table


def _figures(results: Sequence[Result]) -> dict[str, Any]:
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
