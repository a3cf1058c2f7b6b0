"""A refocus that reopens: a question may open at once what was folded just before it."""

from dataclasses import replace

import numpy as np
import pytest
from refocusing import focus_on, reasons, seen

from megacontext.core.allocators import make_allocator
from megacontext.core.config import FocusConfig
from megacontext.core.focus import Focus, Limits, WorkingContext
from megacontext.core.focus.limits import limits_for
from megacontext.traces.schema import Reason, Trigger

PLAIN = Limits(cooldown_steps=2)
QUESTION = Limits(cooldown_steps=2, reopen=True)
EXPAND, COLLAPSE = 0, 1


def once(focus, scores, limits=PLAIN):
    """The first round of a refocus."""
    focus.begin(Trigger.QUESTION if limits.reopen else Trigger.BLOCK_CLOSED, limits)
    return focus.round(scores)


def folded_by_force():
    focus = focus_on([0] * 9, w_max=39)
    result = once(focus, [0, -0.1, 0, 0, 0, 0, 0, 0, 0])
    assert reasons(result.actions) == {(COLLAPSE, 1, 1): Reason.HEADROOM}
    return focus


def folded_to_pay():
    focus = focus_on([1] + [0] * 8, w_max=37)
    result = once(focus, [0.9, -0.1, 0, 0, 0, 0, 0, 0, 0])
    assert reasons(result.actions)[COLLAPSE, 1, 1] == Reason.PAIR
    return focus


def folded_by_its_score():
    focus = focus_on([0] * 9, w_max=60)
    result = once(focus, [0, -0.9, 0, 0, 0, 0, 0, 0, 0])
    assert reasons(result.actions) == {(COLLAPSE, 1, 1): Reason.SCORE}
    return focus


ASKED = [0, 0.9, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("folded", [folded_by_force, folded_to_pay, folded_by_its_score])
def test_a_question_opens_what_was_folded_just_before_it_and_no_other_refocus_does(folded):
    plain = once(folded(), ASKED)
    assert len(plain.actions) == 0
    assert reasons(plain.rejected)[EXPAND, 1, 1] == Reason.COOLDOWN
    asked = once(folded(), ASKED, QUESTION)
    assert seen(asked.actions)[-1] == (EXPAND, 1, 1)
    assert Reason.COOLDOWN not in asked.rejected["reason"]


def opened_and_folded():
    """Opened by choice at .9, folded by force once its cooldown was over."""
    focus = focus_on([1, 0, 0, 0], w_max=60, max_levels=1)
    assert seen(once(focus, [0.9, 0, 0, 0]).actions) == [(EXPAND, 1, 0)]
    for _ in range(2):
        assert len(once(focus, [0, 0, 0, 0]).actions) == 0
    focus.set_w_max(17)
    assert seen(once(focus, [-0.1, 0, 0, 0]).actions) == [(COLLAPSE, 1, 0)]
    focus.set_w_max(60)
    return focus


def test_a_question_needs_no_new_evidence():
    focus = opened_and_folded()
    for _ in range(3):
        held = once(focus, [0.9, 0, 0, 0])
        assert len(held.actions) == 0
    assert reasons(held.rejected)[EXPAND, 1, 0] == Reason.NOT_REARMED
    assert seen(once(focus, [0.9, 0, 0, 0], QUESTION).actions) == [(EXPAND, 1, 0)]


def test_a_question_without_reopening_is_held_back_as_any_refocus_is():
    own = Limits(n_diff=8, rounds=6, cooldown_steps=2)
    focus = opened_and_folded()
    focus.begin(Trigger.QUESTION, own)
    assert len(focus.round([0.9, 0, 0, 0]).actions) == 0


def test_what_a_question_did_not_open_is_still_disarmed_after_it():
    focus = opened_and_folded()
    once(focus, [0.85, 0, 0, 0], Limits(n_diff=0, reopen=True))
    for _ in range(3):
        assert len(once(focus, [0.9, 0, 0, 0]).actions) == 0


def test_nothing_flips_twice_in_one_refocus_even_at_a_question():
    focus = focus_on([0, 0, 1, 0, 0, 0], w_max=60, max_levels=1)
    focus.begin(Trigger.QUESTION, QUESTION)
    changed = focus.round([0, -0.9, 0.9, 0, 0, 0])
    assert set(seen(changed.actions)) == {(COLLAPSE, 1, 1), (EXPAND, 1, 2)}
    back = focus.round([0, 0.9, -0.9, 0, 0, 0])
    assert len(back.actions) == 0
    why = reasons(back.rejected)
    assert why[EXPAND, 1, 1] == why[COLLAPSE, 1, 2] == Reason.COOLDOWN


@pytest.mark.parametrize("later", [PLAIN, QUESTION])
def test_what_a_question_opened_is_folded_by_choice_only_after_its_cooldown(later):
    focus = folded_by_force()
    assert (EXPAND, 1, 1) in seen(once(focus, ASKED, QUESTION).actions)
    unwanted = -np.array(ASKED)
    for _ in range(PLAIN.cooldown_steps):
        held = once(focus, unwanted, later)
        assert (COLLAPSE, 1, 1) not in seen(held.actions)
        assert reasons(held.rejected)[COLLAPSE, 1, 1] == Reason.COOLDOWN
    assert (COLLAPSE, 1, 1) in seen(once(focus, unwanted, later).actions)


def test_force_at_a_question_spares_what_was_just_opened():
    focus = focus_on([1] + [0] * 8, w_max=60)
    assert seen(once(focus, [0.9] + [0] * 8).actions) == [(EXPAND, 1, 0)]
    focus.set_w_max(39)
    result = once(focus, [-1.0] + [0] * 8, QUESTION)
    assert seen(result.actions) == [(COLLAPSE, 1, 1)]
    assert result.actions["forced"].all()


def test_only_questions_turn_ends_and_echoes_reopen_and_the_config_can_forbid_it():
    focus = FocusConfig()
    reopening = {trigger for trigger in Trigger if limits_for(focus, trigger).reopen}
    assert reopening == {Trigger.QUESTION, Trigger.TURN_END, Trigger.ECHO}
    never = replace(focus, question=replace(focus.question, reopen=False))
    assert not any(limits_for(never, trigger).reopen for trigger in Trigger)


# The demo's shape: K = 32, w_max = 1024, 8 actions a round, 6 rounds at a question.
K, W_MAX, SPAN = 32, 1024, 32768


def full_demo_window():
    """A full budget over 56,672 tokens, the first 32,768 of them as 32 gists of level 2."""
    levels = [2] * 32 + [2] * 20 + [1] * 80 + [0] * 27
    context = WorkingContext.from_levels(
        levels,
        sum(K ** max(level, 1) for level in levels),
        block_size=K,
        max_levels=4,
        w_max=W_MAX,
        protected_blocks=2,
    )
    assert context.free < K
    return Focus(context, make_allocator("greedy"), limits_for(FocusConfig(), Trigger.BLOCK_CLOSED))


def covering(context, block):
    at = int(context.starts.searchsorted(block * K, "right")) - 1
    return at, int(context.levels[at])


@pytest.mark.parametrize("blocks", [[700], [31, 32]])
@pytest.mark.parametrize("others", [0, 40])
def test_a_block_under_a_level_3_gist_opens_in_one_refocus_at_the_demos_limits(blocks, others):
    """Three levels take three rounds, also where a fact lies across two gists of level 2, and
    with dozens of lookalikes that want to open as well."""
    focus = full_demo_window()
    context = focus.working_context
    focus.begin(Trigger.BLOCK_CLOSED)
    dull = np.where(context.starts < SPAN, -0.3, 0.0)
    forced = focus.round(dull)
    assert (COLLAPSE, 3, 0) in seen(forced.actions[forced.actions["forced"]])
    assert covering(context, blocks[0]) == (0, 3)
    while not forced.last:
        forced = focus.round(np.zeros(len(context)))
    limits = limits_for(FocusConfig(), Trigger.QUESTION)
    assert (limits.n_diff, limits.rounds) == (8, 6)
    focus.begin(Trigger.QUESTION, limits)
    rounds, last = 0, False
    while not last and any(covering(context, block)[1] for block in blocks):
        scores = np.zeros(len(context))
        scores[(context.levels == 1).nonzero()[0][:others]] = 0.9
        scores[[covering(context, block)[0] for block in blocks]] = 1.0
        last = focus.round(scores).last
        rounds += 1
    assert [covering(context, block)[1] for block in blocks] == [0] * len(blocks)
    assert rounds == 3
