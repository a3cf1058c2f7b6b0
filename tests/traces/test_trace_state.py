import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.traces.errors import PlanError
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import ACTION_DTYPE, TraceRow
from megacontext.traces.schema import ActionKind, Reason, Trigger
from megacontext.traces.state import (
    apply_action,
    apply_actions,
    cost_of,
    index_of,
    starts_of,
    state_after,
    states,
    violations_of,
)

K = 4
EXPAND, COLLAPSE = ActionKind.EXPAND, ActionKind.COLLAPSE


def _levels(*levels):
    return np.array(levels, np.int8)


def _row(levels, actions=(), tail=1, w_max=100, **fields):
    levels = _levels(*levels)
    records = np.zeros(len(actions), ACTION_DTYPE)
    after, cost = levels, cost_of(levels, K, tail)
    for record, (kind, level, index) in zip(records, actions, strict=True):
        change = (K - 1) * (1 if kind == EXPAND else -1)
        record["kind"], record["level"], record["index"], record["cost"] = (
            kind,
            level,
            index,
            change,
        )
        cost += change
    tokens = int((K ** np.maximum(after, 1).astype(np.int64)).sum()) + tail
    defaults = {
        "step": 3,
        "history_tokens": tokens,
        "tail_tokens": tail,
        "scores": np.zeros(len(levels), np.float16),
        "budget_used": cost,
    }
    return TraceRow(levels=levels, actions=records, w_max=w_max, **(defaults | fields))


def test_positions_follow_from_levels_alone():
    levels = _levels(2, 1, 0, 1)
    assert starts_of(levels, K).tolist() == [0, 16, 20, 24]
    assert index_of(levels, K).tolist() == [0, 4, 5, 6]
    assert cost_of(levels, K, 3) == 3 + K + 3


def test_expanding_and_collapsing_are_inverse():
    levels = _levels(2, 1, 0)
    coarse_out = apply_action(levels, EXPAND, 2, 0, K)
    assert coarse_out.tolist() == [1, 1, 1, 1, 1, 0]
    assert apply_action(coarse_out, COLLAPSE, 2, 0, K).tolist() == levels.tolist()
    raw = apply_action(levels, EXPAND, 1, 4, K)
    assert raw.tolist() == [2, 0, 0]
    assert apply_action(raw, COLLAPSE, 1, 4, K).tolist() == levels.tolist()


@pytest.mark.parametrize(
    ("kind", "level", "index", "said"),
    [
        (EXPAND, 1, 0, "the frontier has L2 there"),
        (EXPAND, 1, 1, "no frontier node starts at token 4"),
        (EXPAND, 1, 99, "no frontier node starts at token 396"),
        (COLLAPSE, 2, 1, "children are not all"),
        (COLLAPSE, 1, 4, "children are not all"),
        (EXPAND, 0, 5, "out of range"),
    ],
)
def test_an_impossible_action_says_why(kind, level, index, said):
    with pytest.raises(PlanError, match=said):
        apply_action(_levels(2, 1, 0, 1), kind, level, index, K)


def test_states_are_given_after_every_action():
    row = _row([1, 1, 1, 1, 1], [(COLLAPSE, 2, 0), (EXPAND, 1, 4)])
    assert [s.tolist() for s in states(row, K)] == [[1] * 5, [2, 1], [2, 0]]
    assert state_after(row, K).tolist() == [2, 0]
    assert violations_of(row, K) == []


def test_every_row_of_a_made_trace_is_legal(small_trace):
    with TraceReader.open(small_trace) as reader:
        previous = None
        kinds = set()
        for row in reader.rows():
            assert violations_of(row, reader.meta.block_size, previous) == []
            previous = row
            kinds |= {(int(a["kind"]), bool(a["forced"]), int(a["level"])) for a in row.actions}
    assert {(0, False, 1), (0, False, 2), (1, True, 1), (1, False, 1)} <= kinds


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (_row([1, 1], history_tokens=10), "tiling"),
        (_row([1, 2]), "alignment: node 1"),
        (_row([1, 1], tail=4), "tail"),
        (_row([1, -1]), "levels"),
        (_row([1, 1], scores=np.zeros(3, np.float16)), "scores: 3 values for 2"),
        (_row([0, 0], w_max=8), "budget: the scored frontier costs 9 of 8"),
        (_row([1, 1, 1], [(EXPAND, 1, 0), (COLLAPSE, 1, 0)], w_max=5), "action 0: budget: 7"),
        (_row([1, 1], [(EXPAND, 1, 5)]), "action 0: expand L1@5"),
        (_row([1, 1], budget_used=9), "budget_used says 9"),
        (_row([1, 1], w_max=6), "headroom: 3 entries"),
    ],
)
def test_each_broken_invariant_is_named(row, said):
    problems = violations_of(row, K)
    assert len(problems) == 1
    assert said in problems[0]
    assert problems[0].startswith("step 3 round 0")


def test_a_wrong_cost_is_named():
    row = _row([1, 1], [(EXPAND, 1, 0)])
    row.actions["cost"] = 5
    assert "cost says 5, it is 3" in violations_of(row, K)[0]


def test_a_lowered_budget_may_be_obeyed_by_collapses():
    actions = [(COLLAPSE, 1, 0), (COLLAPSE, 1, 1)]
    row = _row([0, 0], actions, tail=0, w_max=6, trigger=Trigger.BUDGET_CUT)
    assert violations_of(row, K) == []
    row.trigger = Trigger.MANUAL
    assert "budget" in violations_of(row, K)[0]
    row.actions["reason"] = Reason.BUDGET_CUT
    assert violations_of(row, K) == []


def test_continuity_with_the_row_before():
    first = _row([1, 1, 0], [(COLLAPSE, 1, 2)])
    second = _row([1, 1, 1, 0], step=4, appended_levels=_levels(0), new_tokens=np.zeros(4))
    assert violations_of(second, K, first) == []
    skipped = dataclasses.replace(second, step=5)
    assert "order" in violations_of(skipped, K, first)[0]
    short = dataclasses.replace(second, new_tokens=np.zeros(3))
    assert "grew by 4 tokens, new_tokens has 3" in violations_of(short, K, first)[0]
    other = dataclasses.replace(second, appended_levels=_levels(1))
    assert "previous row's state" in violations_of(other, K, first)[0]
    again = dataclasses.replace(second, step=3, round=1)
    assert any("only round 0" in problem for problem in violations_of(again, K, first))
    late = _row([1, 1, 1], step=3, round=2)
    assert any("round 2 follows round 0" in problem for problem in violations_of(late, K, first))


@settings(max_examples=60)
@given(st.data())
def test_random_legal_actions_keep_the_tiling(data):
    levels = _levels(3, 2, 1, 1, 1, 1, 0, 0)
    total = int((K ** np.maximum(levels, 1).astype(np.int64)).sum())
    taken = []
    for _ in range(data.draw(st.integers(0, 8))):
        starts = starts_of(levels, K)
        legal = []
        for kind in (EXPAND, COLLAPSE):
            for level in (1, 2, 3):
                for index in range(total // K**level):
                    try:
                        apply_action(levels, kind, level, index, K)
                    except PlanError:
                        continue
                    legal.append((kind, level, index))
        assert len(starts) == len(levels)
        taken.append(data.draw(st.sampled_from(legal)))
        levels = apply_action(levels, *taken[-1], K)
    row = _row([3, 2, 1, 1, 1, 1, 0, 0], taken, w_max=1_000)
    assert violations_of(row, K) == []
    assert (apply_actions(row.levels, row.actions, K) == levels).all()
