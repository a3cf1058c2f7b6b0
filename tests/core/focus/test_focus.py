"""What one refocus does, step by step."""

from dataclasses import replace

import numpy as np
import pytest
from refocusing import focus_on, reasons, seen

from megacontext.core.allocators import make_allocator
from megacontext.core.focus import Focus, Limits, WorkingContext, clean_scores, make_actions
from megacontext.core.focus.hysteresis import Memory
from megacontext.traces.errors import ConfigError, PlanError
from megacontext.traces.schema import Reason, Trigger


def once(focus, scores, trigger=Trigger.MANUAL, limits=None):
    focus.begin(trigger, limits)
    return focus.round(scores)


def test_headroom_is_made_first_from_the_lowest_score_oldest_first():
    focus = focus_on([0] * 9, w_max=36)
    scores = [0.1, -0.1, 0.1, -0.1, 0.1, 0.1, 0.1, 0.1, -1.0]
    result = once(focus, scores)
    assert seen(result.actions) == [(1, 1, 1), (1, 1, 3)]
    assert result.actions["forced"].all()
    assert (result.actions["reason"] == Reason.HEADROOM).all()
    assert focus.working_context.free == 6
    assert result.levels.tolist() == [0] * 9


def test_forced_collapses_reach_groups_that_they_made_themselves():
    focus = focus_on([1] * 15 + [0] * 2, w_max=23, max_levels=2)
    result = once(focus, np.full(17, 0.9))
    # raw block 15 becomes the gist that completes the group of 12..15
    assert seen(result.actions)[0] == (1, 2, 0)
    assert result.actions["forced"].all()
    assert focus.working_context.free >= 4


def test_a_budget_cut_says_so_and_then_makes_headroom():
    focus = focus_on([0] * 12, w_max=60)
    focus.set_w_max(40)
    result = once(focus, np.zeros(12), Trigger.BUDGET_CUT)
    assert result.actions["reason"].tolist() == [
        *[int(Reason.BUDGET_CUT)] * 3,
        int(Reason.HEADROOM),
    ]
    assert (result.budget_used, result.w_max) == (36, 40)


def test_cooling_nodes_are_forced_only_when_nothing_else_is_left():
    focus = focus_on([1, 1, 1, 0], w_max=33, max_levels=1, cooldown_steps=3)
    result = once(focus, [0.9, 0.9, 0.9, 0.0])
    assert len(result.actions) == 3
    focus.set_w_max(smallest(focus))
    result = once(focus, np.zeros(4), Trigger.BUDGET_CUT)
    assert len(result.actions)
    assert (result.actions["reason"] == Reason.FORCED_OVERRIDE).all()


def smallest(focus):
    context = focus.working_context
    return context.smallest_w_max(context.block_size, context.max_levels, context.protected_blocks)


def test_a_swap_needs_a_gain_beyond_the_margin_and_counts_as_two():
    def full(**limits):
        return focus_on([1, 1, 0, 0, 0, 0], w_max=24, **limits)

    swapped = once(full(), [0.5, 0.3, 0.1, 0.3, 0.3, 0])
    assert seen(swapped.actions) == [(1, 1, 2), (0, 1, 0)]
    assert (swapped.actions["reason"] == Reason.PAIR).all()
    close = once(full(), [0.29, 0.3, 0.11, 0.3, 0.3, 0])
    assert len(close.actions) == 0
    assert reasons(close.rejected)[0, 1, 1] == Reason.GAIN
    short = once(full(n_diff=1), [0.5, 0.3, 0.1, 0.3, 0.3, 0])
    assert len(short.actions) == 0
    assert reasons(short.rejected)[0, 1, 0] == Reason.N_DIFF


def test_turned_down_candidates_say_why():
    focus = focus_on([2, 1, 0, 1, 1, 0, 0], w_max=60, protected=1, n_diff=2)
    result = once(focus, [0.9, -0.9, 0.0, 0.8, 0.7, -0.9, -0.8])
    assert seen(result.actions) == [(0, 2, 0), (1, 1, 8)]
    why = reasons(result.rejected)
    assert why[0, 1, 6] == Reason.N_DIFF
    assert why[1, 2, 1] == Reason.ILLEGAL
    assert why[1, 1, 9] == Reason.PROTECTED
    result = once(focus, [0.0] * 8 + [0.9, 0.0])
    assert reasons(result.rejected)[0, 1, 8] == Reason.COOLDOWN


def test_without_any_payer_the_reason_is_the_budget():
    focus = focus_on([1, 1, 1, 1, 1, 0], w_max=15, max_levels=1)
    result = once(focus, [0.9, 0.1, 0.1, 0.1, 0.1, 0.0])
    assert len(result.actions) == 0
    assert reasons(result.rejected)[0, 1, 0] == Reason.BUDGET


def test_an_expanded_node_must_score_low_as_a_gist_before_it_expands_again():
    focus = focus_on([1, 0, 0], w_max=60, cooldown_steps=0, max_levels=1)
    assert seen(once(focus, [0.9, 0, 0]).actions) == [(0, 1, 0)]
    assert seen(once(focus, [-0.9, 0, 0]).actions) == [(1, 1, 0)]
    held = once(focus, [0.9, 0, 0])
    assert len(held.actions) == 0
    assert reasons(held.rejected)[0, 1, 0] == Reason.NOT_REARMED
    assert len(once(focus, [0.1, 0, 0]).actions) == 0
    assert seen(once(focus, [0.9, 0, 0]).actions) == [(0, 1, 0)]


@pytest.mark.parametrize(
    ("score", "arms"), [(0.85, False), (None, False), (0.75, True), (0.1, True)]
)
def test_only_new_evidence_arms_again(score, arms):
    focus = focus_on([1, 0, 0], cooldown_steps=0, max_levels=1, tau_expand=0.25)
    once(focus, [0.9, 0, 0])
    once(focus, [-0.9, 0, 0])
    # n_diff 0: the round only looks, so that the next one decides.
    focus.limits = replace(focus.limits, n_diff=0)
    once(focus, None if score is None else [score, 0, 0])
    focus.limits = replace(focus.limits, n_diff=4)
    assert len(once(focus, [0.9, 0, 0]).actions) == arms


def test_a_score_below_the_threshold_arms_even_if_it_is_near():
    focus = focus_on([1, 0, 0], cooldown_steps=0, max_levels=1, tau_expand=0.25)
    once(focus, [0.3, 0, 0])
    once(focus, [-0.9, 0, 0])
    assert len(once(focus, [0.3, 0, 0]).actions) == 0
    once(focus, [0.249, 0, 0])
    assert len(once(focus, [0.3, 0, 0]).actions) == 1


def test_a_node_swallowed_in_the_plan_that_made_it_disarms_no_other():
    context = focus_on([2, 2, 2, 0], size=2, protected=0).working_context
    memory = Memory(len(context))

    def do(step, *nodes):
        plan = make_actions(nodes, 2)
        splices = context.apply(plan)
        memory.follow(plan, splices, step, context.levels, context.starts, 2)

    do(0, (0, 2, 1))
    do(1, (1, 2, 1), (1, 3, 0))  # the next entry is (2, 2), of the swallowed node's level
    assert context.levels.tolist() == [3, 2, 0]
    assert not memory.disarmed.any()
    do(2, (0, 3, 0), (0, 2, 0))
    do(3, (1, 2, 0))
    assert memory.disarmed.tolist() == [True, False, False, False]


@pytest.mark.parametrize("cooldown", [0, 1, 2, 5])
def test_nothing_flips_back_within_the_cooldown(cooldown):
    focus = focus_on([1, 0, 0], cooldown_steps=cooldown, max_levels=1)
    once(focus, [0.9, 0, 0])
    waited = 0
    while len(once(focus, [-0.9, 0, 0]).actions) == 0:
        waited += 1
    assert waited == cooldown


@pytest.mark.parametrize(
    ("given", "bad"),
    [
        ([0.5, np.nan, 0.5], 1),
        ([np.inf, -np.inf, 0.5], 2),
        ([1e9, 0.5, 0.5], 1),
        ([0.5, 0.5], 3),
        ([[0.5, 0.5, 0.5]], 3),
        (["a", "b", "c"], 3),
        ([0.5, 0.25, 1.0], 0),
    ],
)
def test_unusable_scores_count_and_are_zero(given, bad):
    scores, result = clean_scores(given, 3)
    assert result == bad
    assert scores.dtype == np.float16
    assert np.isfinite(scores).all()
    assert np.count_nonzero(scores == 0) == bad


def test_scores_reach_the_allocator_rounded_to_float16():
    focus = focus_on([1, 0, 0], max_levels=1)
    result = once(focus, [0.20001, 0, 0])  # float16 has 0.2 itself just below float32's 0.2
    assert result.scores[0] == np.float16(0.20001)
    assert len(result.actions) == 0


def test_rounds_end_when_settled_or_used_up():
    focus = focus_on([2, 0, 0], rounds=2)
    first = once(focus, [0.9, 0, 0])
    assert (first.settled, first.last) == (False, False)
    second = focus.round([0.9, 0.9, 0.9, 0.9, 0, 0])
    assert (second.round, second.settled, second.last) == (1, False, True)
    with pytest.raises(PlanError, match=r"begin\(\)"):
        focus.round(np.zeros(6))
    third = once(focus, np.zeros(6))
    assert (third.settled, third.last) == (True, True)
    assert third.step == 1


def test_a_question_may_bring_limits_of_its_own():
    focus = focus_on([1] * 8 + [0], w_max=60, n_diff=1)
    scores = [0.9] * 8 + [0]
    assert len(once(focus, scores).actions) == 1
    result = once(focus, np.where(focus.working_context.levels, 0.9, 0.5), limits=Limits(n_diff=5))
    assert len(result.actions) == 5


def test_ages_count_survived_refocuses():
    focus = focus_on([1, 1, 0], max_levels=1)
    assert focus.ages.tolist() == [0, 0, 0]
    once(focus, [0.9, 0, 0])
    once(focus, [0, 0, 0])
    focus.append(4)
    assert focus.ages.tolist() == [1, 1, 1, 0]
    once(focus, [0, 0, 0, 0])
    assert focus.ages.tolist() == [2, 2, 2, 0]


def test_mid_block_refocus_keeps_a_whole_block_free():
    focus = focus_on([0] * 6, w_max=30)
    focus.append(3)
    once(focus, np.zeros(6))
    assert focus.working_context.tail_tokens == 3
    assert focus.working_context.free >= 4


def test_ingest_takes_any_amount():
    context = WorkingContext(4, 3, 40, 1)
    focus = Focus(context, make_allocator("greedy"))
    parts = list(focus.ingest(200)) + list(focus.ingest(37))
    assert context.n_tokens == 237
    assert context.free >= 4
    assert all(result.scores is None and result.actions["forced"].all() for _, result in parts)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_diff", -1),
        ("tau_expand", 1.5),
        ("tau_collapse", float("nan")),
        ("cooldown_steps", 65),
        ("rounds", 0),
    ],
)
def test_impossible_limits_are_refused_with_their_range(field, value):
    with pytest.raises(ConfigError, match=rf"focus\.{field}: .* outside"):
        Limits(**{field: value})


def test_rows_that_do_not_continue_are_refused():
    focus = focus_on([0] * 6)
    result = once(focus, np.zeros(6))
    other = focus_on([0] * 6)
    row = type(
        "Row",
        (),
        {
            "step": 0,
            "round": 0,
            "history_tokens": 24,
            "levels": np.array([1, 0, 0, 0, 0, 0], np.int8),
            "scores": None,
            "actions": result.actions,
            "w_max": 60,
        },
    )()
    with pytest.raises(PlanError, match="step 0 does not continue"):
        other.replay(row)
