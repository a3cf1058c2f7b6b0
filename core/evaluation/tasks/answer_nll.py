"""Recall text as a domain of NLL: what the answer's tokens cost, by contender.

A history of the trained window's length holds facts, all of them older than the largest budget.
After the question, the tokens of the answer are scored as in :mod:`.nll`, beside ``full``, which
has the whole history in its window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megacontext.core.evaluation.contenders.base import Sample, sample_config
from megacontext.core.evaluation.contenders.registry import CONTENDERS
from megacontext.core.evaluation.sessions.history import token_spans
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.evaluation.tasks.nll import Piece
from megacontext.core.evaluation.tasks.recall_tasks import RecallTask, answer_ids, prompt_ids
from megacontext.core.runtime.nll import full_history_nll

__all__ = ["RECALL_TEXT", "evaluate_answers"]

RECALL_TEXT = "recall text"
"""The name of the domain."""


def evaluate_answers(
    workspace: EvalWorkspace,
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
    tokenizer = workspace.base.tokenizer

    # The full history in the window is the reference; longer tasks have none.
    asked: list[tuple[Piece, RecallTask, np.ndarray, np.ndarray]] = []
    for number, task in enumerate(tasks, first):
        history = workspace.history(task.history)
        prompt = prompt_ids(tokenizer, task.question)
        answer = answer_ids(tokenizer, task.answer)
        whole = np.concatenate([history.tokens, prompt, answer])
        if len(whole) > workspace.base.window:
            continue
        full = float(full_history_nll(workspace.base, whole, len(answer)).mean())
        for budget in w_max:
            piece = Piece(document, RECALL_TEXT, number, budget, full)
            asked.append((piece, task, prompt, answer))

    # Contenders one after the other, as in recall.
    for budget in w_max:
        config = workspace.with_w_max(budget)
        for name in contenders:
            for piece, task, prompt, answer in asked:
                if piece.w_max != budget:
                    continue
                history = workspace.history(task.history)
                gold = token_spans(history.offsets, task.gold)
                sample = sample_config(config, piece.start), history, len(history.tokens), gold
                session = CONTENDERS[name].open(workspace, Sample(*sample))
                session.read_question(prompt)
                piece.nll[name] = float(session.score_tokens(answer).mean())
    return [piece for piece, *_ in asked]
