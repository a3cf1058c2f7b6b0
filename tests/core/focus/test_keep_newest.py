"""``keep_newest``: what lies near stays raw in plain text, and gives way to a question."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megacontext.core.allocators import make_allocator
from megacontext.core.config import load_config
from megacontext.core.focus import Focus, Limits, WorkingContext
from megacontext.core.focus.limits import limits_for
from megacontext.traces.schema import Reason, Trigger

K = 4


def _focus(w_max: int, blocks: int) -> Focus:
    context = WorkingContext(K, 2, w_max, 1)
    context.cold_start(blocks * K)
    return Focus(context, make_allocator("greedy"))


def _round(focus: Focus, limits: Limits, raw_score: float) -> np.ndarray:
    """Raw levels after a round in which every raw block scores ``raw_score``."""
    context = focus.working_context
    scores = np.where(context.levels == 0, raw_score, 0.0)
    focus.begin(Trigger.BLOCK_CLOSED, limits)
    result = focus.round(scores)
    kept = ~result.actions["forced"]
    assert (result.actions["kind"][kept] >= 0).all()
    return context.index[context.levels == 0]


def test_newest_blocks_are_not_folded_by_choice() -> None:
    for keep, left in ((0, {11}), (3, {9, 10, 11})):
        focus = _focus(40, 12)
        assert set(range(6, 12)) <= set(focus.working_context.index.tolist())
        limits = Limits(n_diff=40, keep_newest=keep)
        raw = _round(focus, limits, -0.9)
        assert set(raw.tolist()) == left


def test_a_forced_collapse_takes_an_older_block_first() -> None:
    focus = _focus(40, 12)
    context = focus.working_context
    raws = context.index[context.levels == 0]
    newest = raws[-3:].tolist()
    scores = np.zeros(len(context))
    scores[context.levels == 0] = [0.9] * (len(raws) - 3) + [-0.9] * 3
    focus.append(K)
    focus.begin(Trigger.BLOCK_CLOSED, Limits(n_diff=0, keep_newest=4))
    result = focus.round(np.append(scores, 0.0))
    forced = result.actions[result.actions["forced"]]
    assert len(forced)
    assert not set(forced["index"][forced["level"] == 1].tolist()) & set(newest)


def test_a_forced_collapse_takes_a_kept_block_when_nothing_older_is_left() -> None:
    focus = _focus(20, 3)
    raws = len(focus.working_context)
    limits = Limits(n_diff=0, keep_newest=1000)
    for _ in range(6):
        focus.append(K)
        focus.begin(Trigger.BLOCK_CLOSED, limits)
        result = focus.round(np.zeros(len(focus.working_context)))
        assert (result.actions["reason"] == Reason.HEADROOM).all()
    assert focus.working_context.free >= K
    assert len(focus.working_context) > raws or (focus.working_context.levels > 0).any()


def test_a_question_has_limits_of_its_own() -> None:
    config = load_config(Path("configs/eval/bundle.yaml"), [])
    plain = limits_for(config.focus, Trigger.BLOCK_CLOSED)
    asked = limits_for(config.focus, Trigger.QUESTION)
    assert (plain.keep_newest, asked.keep_newest) == (10, 0)
    assert (plain.tau_expand, asked.tau_expand) == (0.35, 0.2)
    config = load_config(Path("configs/demo.yaml"), ["focus.tau_expand=0.4"])
    assert limits_for(config.focus, Trigger.QUESTION).tau_expand == 0.4
