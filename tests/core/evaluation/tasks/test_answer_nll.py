"""Recall text as a domain of NLL, and lists judged without their order."""

import numpy as np
import pytest

from megacontext.core.evaluation.tasks.answer_nll import RECALL_TEXT, evaluate_answers
from megacontext.core.evaluation.tasks.nll_metrics import summarize_nll
from megacontext.core.evaluation.tasks.recall import is_right
from megacontext.core.evaluation.tasks.recall_tasks import RecallTask


def short(fact_task, tokens):
    start, stop = fact_task["gold"]
    history = fact_task["history"][:tokens]
    return RecallTask(history, fact_task["question"], "5731", ((start, stop),), "passkey")


def test_what_fits_every_window_costs_nothing(workspace, fact_task):
    names = ["ours", "recency", "bm25", "delete", "gists", "oracle"]
    task = RecallTask("the zulu code is 5731", "code?", "5731", ((17, 21),), "passkey")
    (piece,) = evaluate_answers(workspace, [task], names, (96,), "history 0")
    assert (piece.domain, piece.document, piece.w_max) == (RECALL_TEXT, "history 0", 96)
    np.testing.assert_allclose(list(piece.nll.values()), piece.full, atol=1e-4)


def test_every_budget_is_measured_and_what_no_window_holds_is_left_out(workspace, fact_task):
    fits, beyond = short(fact_task, 420), short(fact_task, 1_600)
    names = ["ours", "mean", "delete"]
    pieces = evaluate_answers(workspace, [fits, beyond], names, (96, 128), "h", first=4)
    assert [(p.start, p.w_max) for p in pieces] == [(4, 96), (4, 128)]
    assert all(np.isfinite([*p.nll.values(), p.full]).all() for p in pieces)
    figures = summarize_nll(pieces, 0)
    behind = figures["delete"].first.overall.behind_ours
    assert behind == pytest.approx(pieces[0].nll["delete"] - pieces[0].nll["ours"])
    assert figures["ours"].first.overall.behind_ours is None


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (" oak, elm, ash", True),
        (" ash, oak and elm.", True),
        ("Oak, elm, ash, ash, ash", True),
        (" oak, elm", False),
        (" oak, oak, elm", False),
        (" oak, birch, elm, ash", False),
        ("", False),
    ],
)
def test_lists_are_right_in_any_order(text, right):
    assert is_right(text, "oak, elm, ash", "multi_value") is right
    if text.startswith(" ash"):
        assert not is_right(text, "oak, elm, ash")
