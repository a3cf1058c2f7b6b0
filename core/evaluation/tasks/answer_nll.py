"""Recall text as a domain of NLL: what the answer's tokens cost, by contender.

A history of the trained window's length holds facts, all of them older than the largest budget.
After the question, the tokens of the answer are scored as in :mod:`.nll`, beside ``full``, which
has the whole history in its window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megacontext.core.evaluation.contenders.registry import sample_config, take_seat
from megacontext.core.evaluation.contenders.workspace import Kit, token_spans
from megacontext.core.evaluation.tasks.nll import Piece
from megacontext.core.evaluation.tasks.recall_tasks import RecallTask, answer_ids, prompt_ids
from megacontext.core.runtime.nll import full_history_nll

__all__ = ["RECALL_TEXT", "evaluate_answers"]

RECALL_TEXT = "recall text"
"""The name of the domain."""


def evaluate_answers(
    kit: Kit,
    tasks: Sequence[RecallTask],
    contenders: Sequence[str],
    w_max: Sequence[int],
    document: str,
    first: int = 0,
) -> list[Piece]:
    """One piece per task and budget; a task beyond the trained window is left out.

    Args:
        document: what the pieces are of, for intervals by document.
        first: number of the first task; contenders that draw, draw by it.
    """
    tokenizer = kit.base.tokenizer
    asked: list[tuple[Piece, RecallTask, np.ndarray, np.ndarray]] = []
    for number, task in enumerate(tasks, first):
        history = kit.history(task.history)
        prompt = prompt_ids(tokenizer, task.question)
        answer = answer_ids(tokenizer, task.answer)
        whole = np.concatenate([history.tokens, prompt, answer])
        if len(whole) > kit.base.window:
            continue
        full = float(full_history_nll(kit.base, whole, len(answer)).mean())
        for budget in w_max:
            piece = Piece(document, RECALL_TEXT, number, budget, full)
            asked.append((piece, task, prompt, answer))
    for budget in w_max:
        config = kit.with_w_max(budget)
        for name in contenders:  # one after the other, as in recall
            for piece, task, prompt, answer in asked:
                if piece.w_max != budget:
                    continue
                history = kit.history(task.history)
                gold = token_spans(history.offsets, task.gold)
                own = sample_config(config, piece.start)
                seat = take_seat(name, kit, own, history, len(history.tokens), gold)
                seat.hear(prompt)
                piece.nll[name] = float(seat.measure(answer).mean())
    return [piece for piece, *_ in asked]
