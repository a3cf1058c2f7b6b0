"""Plans are legal as a whole or not done at all."""

import numpy as np
import pytest

from megacontext.core.focus import WorkingContext, make_actions, smallest_w_max
from megacontext.traces.errors import BudgetError, PlanError

EXPAND, COLLAPSE = 0, 1


def context(levels, n_tokens=None, w_max=60, size=4, max_levels=3, protected=1):
    if n_tokens is None:
        n_tokens = sum(size ** max(level, 1) for level in levels)
    return WorkingContext.from_levels(
        levels,
        n_tokens,
        block_size=size,
        max_levels=max_levels,
        w_max=w_max,
        protected_blocks=protected,
    )


def actions(*nodes):
    return make_actions(nodes, 4)


def test_smallest_budget_is_the_formula_and_less_is_refused():
    assert smallest_w_max(4, 3, 1) == 3 * 3 + 4 + 8
    assert WorkingContext.smallest_w_max(4, 3, 1) == smallest_w_max(4, 3, 1)
    WorkingContext(4, 3, 21, 1)
    with pytest.raises(BudgetError, match=r"w_max: 20 .* at least 21"):
        WorkingContext(4, 3, 20, 1)


@pytest.mark.parametrize("size", [0, 1, 3, 12])
def test_block_size_must_be_a_power_of_two(size):
    with pytest.raises(PlanError, match="power of two"):
        WorkingContext(size, 2, 500, 1)


def test_expand_and_collapse_are_inverse():
    before = context([2, 1, 1, 0])
    after = context([2, 1, 1, 0])
    after.apply(actions((EXPAND, 2, 0), (EXPAND, 1, 2), (COLLAPSE, 1, 2), (COLLAPSE, 2, 0)))
    for name in ("levels", "index", "starts"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
    assert before.cost == after.cost


def test_a_plan_may_depend_on_its_own_edits():
    wc = context([2, 0])
    wc.apply(actions((EXPAND, 2, 0), (EXPAND, 1, 3), (EXPAND, 1, 0)))
    assert wc.levels.tolist() == [0, 1, 1, 0, 0]
    assert wc.index.tolist() == [0, 1, 2, 3, 4]
    assert wc.cost == 4 + 1 + 1 + 4 + 4


@pytest.mark.parametrize(
    ("plan", "invariant"),
    [
        ([(EXPAND, 1, 0)], "existence"),  # inside a level-2 gist
        ([(EXPAND, 1, 7)], "existence"),  # a raw block
        ([(EXPAND, 2, 9)], "existence"),  # beyond the history
        ([(EXPAND, 0, 4)], "existence"),
        ([(COLLAPSE, 4, 0)], "existence"),
        ([(2, 1, 0)], "neither"),
        ([(COLLAPSE, 2, 1)], "siblings"),  # 4, 5, 6 are gists, 7 is raw
        ([(COLLAPSE, 1, 4)], "siblings"),  # it is a gist already
        ([(COLLAPSE, 1, 8)], "protected"),
        ([(EXPAND, 2, 0), (EXPAND, 2, 0)], "existence"),
        ([(EXPAND, 1, 5), (COLLAPSE, 1, 7), (COLLAPSE, 2, 1)], "siblings"),
    ],
)
def test_an_illegal_plan_changes_nothing(plan, invariant):
    wc = context([2, 1, 1, 1, 0, 0])
    kept = wc.levels
    with pytest.raises(PlanError, match=invariant):
        wc.check(actions(*plan))
    with pytest.raises(PlanError, match=invariant):
        wc.apply(actions(*plan))
    assert wc.levels is kept


def test_budget_holds_after_every_single_action():
    levels = [1, 1, 1, 1, 0, 0, 0, 0, 0]
    wc = context(levels, w_max=24)  # costs 24
    with pytest.raises(PlanError, match="budget: action 0"):
        wc.apply(actions((EXPAND, 1, 0), (COLLAPSE, 1, 4)))
    wc.apply(actions((COLLAPSE, 1, 4), (EXPAND, 1, 0)))
    assert wc.cost == 24
    with pytest.raises(PlanError, match="headroom: the plan leaves 3"):
        wc.apply(actions((COLLAPSE, 1, 5)), headroom=4)


def test_one_entry_over_the_budget_is_refused():
    levels = [1, 1, 0, 0, 0, 0]  # costs 18, 21 after an expand, 24 after two
    plan = actions((EXPAND, 1, 0), (EXPAND, 1, 1))
    context(levels, w_max=24).apply(plan)
    for w_max in (23, 22, 21):
        with pytest.raises(PlanError, match="budget: action 1 raises the cost to 24"):
            context(levels, w_max=w_max).apply(plan)
        with pytest.raises(PlanError, match="budget"):  # also where a later action repairs it
            context(levels, w_max=w_max).check(actions(*plan_of(plan), (COLLAPSE, 1, 2)))


def plan_of(plan):
    return [(int(a["kind"]), int(a["level"]), int(a["index"])) for a in plan]


def test_siblings_of_a_level_1_group_are_not_raw_blocks_in_disguise():
    wc = context([1, 0, 1, 1, 0])
    with pytest.raises(PlanError, match="siblings"):
        wc.apply(actions((COLLAPSE, 2, 0)))


def test_nodes_lie_on_multiples_of_their_width():
    with pytest.raises(PlanError, match=r"alignment: a level-2 node cannot start at token 4"):
        context([1, 2, 0])


def test_levels_must_cover_exactly_the_closed_blocks():
    with pytest.raises(PlanError, match="tiling"):
        context([1, 0], n_tokens=12)
    with pytest.raises(PlanError, match="tiling"):
        context([], n_tokens=4)
    assert context([1, 0], n_tokens=11).tail_tokens == 3


def test_protected_blocks_must_be_raw():
    with pytest.raises(PlanError, match="protected"):
        context([0, 1])


def test_a_cut_frontier_may_only_shrink_and_must_end_within():
    wc = context([0] * 10, w_max=60)
    wc.set_w_max(30)
    assert wc.free == -10
    assert wc.max_append() == 0
    with pytest.raises(PlanError, match="headroom"):
        wc.check(actions((COLLAPSE, 1, 0)))
    shrink = [(COLLAPSE, 1, at) for at in range(4)]
    with pytest.raises(PlanError, match="budget"):
        wc.check(actions(shrink[0], (EXPAND, 1, 0), *shrink[1:]))
    wc.apply(actions(*shrink))
    assert wc.cost == 28


def test_a_budget_that_can_never_hold_the_history_is_refused():
    wc = WorkingContext(4, 1, 60, 1)
    wc.append(wc.max_append())
    with pytest.raises(BudgetError, match="levels"):
        wc.set_w_max(smallest_w_max(4, 1, 1))


@pytest.mark.parametrize("n_tokens", [0, 3, 4, 64, 1000, 4**5, 4**5 + 7])
def test_cold_start_is_newest_raw_then_coarser_with_headroom(n_tokens):
    wc = WorkingContext(4, 5, 80, 2)
    levels = wc.cold_start(n_tokens)
    assert wc.n_tokens == n_tokens
    assert wc.free >= 4
    raw = int(np.count_nonzero(levels == 0))
    assert not levels[len(levels) - raw :].any()
    assert raw >= min(2, n_tokens // 4)
    gists = levels[: len(levels) - raw]
    if len(gists):
        ones = len(gists) - int(np.max(np.flatnonzero(gists > 1), initial=-1)) - 1
        assert (gists[len(gists) - ones :] == 1).all()
    assert wc.free < 4 + 2 * 4 or raw == n_tokens // 4  # no room is wasted


def test_appends_enter_raw_while_they_fit_and_coarser_beyond():
    wc = WorkingContext(4, 3, 40, 1)
    assert wc.append(36).tolist() == [0] * 9
    assert wc.append(3).tolist() == []
    assert wc.free == 1
    assert wc.max_append() == 1
    with pytest.raises(PlanError, match="at most 1 fit"):
        wc.append(2)
    bulk = WorkingContext(4, 3, 40, 1)
    levels = bulk.append(256)
    assert levels[0] == 3
    assert levels[-1] == 0
    assert bulk.cost <= 40


def test_everything_up_to_max_append_fits():
    wc = WorkingContext(4, 2, 30, 1)
    wc.append(17)
    for tokens in range(wc.max_append() + 1):
        other = WorkingContext.from_levels(
            wc.levels, 17, block_size=4, max_levels=2, w_max=30, protected_blocks=1
        )
        other.append(tokens)
        assert other.cost <= 30


def test_recorded_appends_are_checked():
    wc = context([0, 0], w_max=21)
    with pytest.raises(PlanError, match="tiling"):
        wc.extend([0], 16)
    with pytest.raises(PlanError, match="protected"):
        wc.extend([1, 1], 16)
    with pytest.raises(PlanError, match="shrink"):
        wc.extend([], 4)
    with pytest.raises(PlanError, match="budget"):
        wc.extend([0] * 6, 32)
    wc.extend([1, 0], 17)
    assert wc.levels.tolist() == [0, 0, 1, 0]
    assert wc.tail_tokens == 1


def test_entry_spans_map_window_entries_to_tokens():
    wc = context([1, 0, 0], n_tokens=14, w_max=60)
    spans = wc.entry_spans()
    assert len(spans) == wc.cost
    assert spans[0].tolist() == [0, 4]
    assert spans[1:].tolist() == [[at, at + 1] for at in range(4, 14)]


def test_splices_carry_arrays_along_the_frontier():
    wc = context([2, 0, 0, 0, 0, 0])
    names = np.array(["a", "b", "c", "d", "e", "f"])
    for splice in wc.apply(actions((COLLAPSE, 1, 5), (EXPAND, 2, 0))):
        names = splice.carry(names, "new")
    assert names.tolist() == ["n", "n", "n", "n", "b", "n", "d", "e", "f"]


def test_arrays_given_out_never_change():
    wc = context([2, 0, 0, 0, 0, 0])
    before = wc.levels
    with pytest.raises(ValueError, match="read-only"):
        before[0] = 1
    wc.apply(actions((EXPAND, 2, 0)))
    assert before.tolist() == [2, 0, 0, 0, 0, 0]
