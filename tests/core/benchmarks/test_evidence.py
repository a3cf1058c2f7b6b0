"""Causes of wrong answers, read from the rounds of a question."""

import numpy as np

from megacontext.core.evaluation.sessions.evidence import (
    MISREAD,
    NOT_EXPANDED,
    NOT_SCORED,
    evidence_of,
)
from megacontext.core.focus import RoundResult
from megacontext.core.focus.actions import EXPAND, REJECTED_DTYPE, make_actions
from megacontext.traces.schema import Reason, Trigger

K = 8
LEVELS = [2, 1, 1, 0, 1]  # tokens 0-63, 64-71, 72-79, 80-87, 88-95
SCORES = [0.1, 0.9, 0.4, 1.0, 0.6]


def a_round(rejected=(), settled=True, scores=SCORES):
    return RoundResult(
        step=0,
        round=0,
        trigger=Trigger.QUESTION,
        n_tokens=100,
        tail_tokens=4,
        levels=np.array(LEVELS, np.int8),
        scores=np.array(scores, np.float16),
        actions=make_actions([], K),
        rejected=np.array(list(rejected), REJECTED_DTYPE),
        budget_used=20,
        w_max=64,
        bad_scores=0,
        settled=settled,
        last=True,
    )


def evidence(gold, raw, rounds, tau=0.3, blocks=None):
    spans = np.array(gold, np.int64)
    return evidence_of([rounds], spans, raw, tau, K, blocks)


def test_a_low_score_is_the_cause():
    found = evidence([(10, 20)], [False], [a_round()])
    assert (found.cause, found.reason, found.rank) == (NOT_SCORED, "", 4)
    assert np.isclose(found.score, 0.1, atol=1e-3)


def test_a_high_score_that_was_turned_down_says_why():
    refused = (EXPAND, 1, 9, 0.4, Reason.N_DIFF)
    found = evidence([(74, 76)], [False], [a_round([refused])])
    assert (found.cause, found.reason, found.rank) == (NOT_EXPANDED, "n diff", 3)
    assert evidence([(74, 76)], [False], [a_round(settled=False)]).reason == "rounds used up"
    assert evidence([(74, 76)], [False], [a_round()]).reason == "no candidate"


def test_raw_gold_was_misread():
    found = evidence([(64, 66)], [True], [a_round()])
    assert (found.cause, found.rank) == (MISREAD, 1)


def test_the_part_that_fared_worst_decides():
    found = evidence([(64, 66), (10, 12)], [True, False], [a_round()])
    assert found.cause == NOT_SCORED
    assert evidence([(74, 76), (10, 12)], [False, False], [a_round()]).cause == NOT_SCORED


def test_the_best_score_of_several_rounds_counts():
    low = a_round(scores=[0, 0, 0, 0, 0])
    assert evidence([(74, 76)], [False], [a_round(), low]).cause == NOT_EXPANDED


def test_a_lens_that_scores_blocks_ranks_blocks():
    blocks = np.zeros(12, np.float32)
    blocks[[2, 9, 11]] = 3, 2, 1
    assert evidence([(74, 76)], [True], [a_round()], blocks=blocks).rank == 2
