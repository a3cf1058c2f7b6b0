"""What each policy does that the others do not."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.core.allocators import ALLOCATORS, MlpPolicy, make_allocator
from megacontext.core.allocators.learned import policy_features
from megacontext.core.allocators.optimal import optimum
from megacontext.core.focus import AllocatorView, Focus, Limits, WorkingContext
from megacontext.core.focus.constraints import OPEN, find_candidates
from megacontext.core.focus.tilings import Span, sample_tilings
from megacontext.traces.errors import ConfigError
from megacontext.traces.schema import Reason, Trigger


def view_of(levels, scores, free_slots=0, size=4, max_levels=3, step=0, **limits):
    levels = np.array(levels, np.int8)
    width = size ** np.maximum(levels, 1).astype(np.int64)
    stops = np.cumsum(width)
    starts = stops - width
    given = Limits(**limits)
    values = np.array(scores, np.float16).astype(np.float32)
    result = find_candidates(
        levels,
        starts // width,
        starts,
        values,
        tau_expand=given.tau_expand,
        block_size=size,
        max_levels=max_levels,
        protected_blocks=1,
        disarmed=None,
        cooling=None,
    )
    return AllocatorView(
        levels=levels,
        index=starts // width,
        starts=starts,
        scores=values,
        candidates=result,
        limits=given,
        free_slots=free_slots,
        n_tokens=int(stops[-1]),
        block_size=size,
        max_levels=max_levels,
        step=step,
        round=0,
        seed=3,
    )


def seen(rows):
    return [(int(a["kind"]), int(a["level"]), int(a["index"])) for a in rows]


def why(decision):
    return {
        node: int(r)
        for node, r in zip(seen(decision.rejected), decision.rejected["reason"], strict=True)
    }


def test_greedy_takes_the_best_and_breaks_ties_toward_the_cursor():
    decision = make_allocator("greedy").propose(
        view_of([1, 1, 1, 1, 0], [0.5, 0.7, 0.5, 0.3, 0], free_slots=9, n_diff=2)
    )
    assert seen(decision.actions) == [(0, 1, 1), (0, 1, 2)]
    assert seen(decision.rejected) == [(0, 1, 0), (0, 1, 3)]
    assert make_allocator("simple") == make_allocator("greedy")


def test_greedy_collapses_what_pays_before_it_expands():
    decision = make_allocator("greedy").propose(
        view_of([1, 0, 0, 0], [0.6, -0.1, -0.9, 0], free_slots=0, n_diff=4)
    )
    assert seen(decision.actions) == [(1, 1, 2), (0, 1, 0)]
    assert decision.actions["reason"].tolist() == [Reason.SCORE, Reason.SCORE]


def test_a_group_is_as_wanted_as_its_best_member():
    scores = [-0.9, -0.9, -0.1, -0.9, 0]
    decision = make_allocator("greedy").propose(view_of([1, 1, 1, 1, 0], scores))
    assert len(decision.actions) == 0
    scores[2] = -0.3
    decision = make_allocator("greedy").propose(view_of([1, 1, 1, 1, 0], scores))
    assert seen(decision.actions) == [(1, 2, 0)]
    assert decision.actions["score"][0] == np.float16(-0.3)


def test_stochastic_greedy_draws_by_step_and_prefers_the_strong():
    allocator = make_allocator("stochastic_greedy", {"temperature": 0.2, "top_k": 3})
    scores = [0.3, 0.4, 0.9, 0.8, 0.7, 0]
    firsts = []
    for step in range(300):
        view = view_of([1] * 5 + [0], scores, free_slots=9, n_diff=1, step=step)
        decision = allocator.propose(view)
        assert seen(decision.actions) == seen(allocator.propose(view).actions)
        assert decision.actions["reason"].tolist() == [Reason.SAMPLED]
        firsts.append(int(decision.actions["index"][0]))
    counts = np.bincount(firsts, minlength=5)
    assert counts[:2].tolist() == [0, 0]  # below the top k
    assert counts[2] > counts[3] > counts[4] > 0
    cold = make_allocator("stochastic_greedy", {"temperature": 1e-4})
    assert seen(cold.propose(view).actions) == [(0, 1, 2)]


def test_slot_bounds_what_may_expand_before_any_budget():
    allocator = make_allocator("slot", {"temperature": 0.1})
    everything = view_of([1] * 20 + [0], [0.9] * 20 + [0], free_slots=10, n_diff=20)
    decision = allocator.propose(everything)
    assert len(decision.actions) == 0  # eleven slots among twenty equal claims
    assert set(why(decision).values()) == {int(Reason.COMPETITION)}
    two = [0.9, 0.9] + [0.3] * 18 + [0]
    decision = allocator.propose(view_of([1] * 20 + [0], two, free_slots=10, n_diff=20))
    assert sorted(seen(decision.actions)) == [(0, 1, 0), (0, 1, 1)]
    assert why(decision)[0, 1, 5] == Reason.COMPETITION


@given(
    st.integers(0, 10**6),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.2]),
    st.sampled_from([2, 4]),
)
@settings(max_examples=150)
def test_optimum_is_the_best_of_all_choices(seed, free_slots, tau, size):
    batch = sample_tilings(Span(0, 12 * size, size, 3, 14 * size, 1), 1, seed)
    levels = batch.levels[0, : batch.nodes[0]]
    random = np.random.default_rng(seed)
    scores = random.choice([-0.9, -0.5, -0.25, -0.1, 0.1, 0.3, 0.5, 0.9], len(levels))
    view = view_of(levels, scores, free_slots, size, tau_expand=tau, tau_collapse=tau)
    result = view.candidates
    opens = np.flatnonzero(result.expand_reason == OPEN)
    groups = np.flatnonzero(result.group_reason == OPEN)
    if len(opens) + len(groups) > 12:
        return
    margin, best = view.limits.margin, 0.0
    for choice in product([0, 1], repeat=len(opens) + len(groups)):
        taken = opens[np.array(choice[: len(opens)], bool)] if len(opens) else opens
        gone = groups[np.array(choice[len(opens) :], bool)] if len(groups) else groups
        clash = any(
            result.group_at[g] <= result.expand_at[e] < result.group_at[g] + result.group_count[g]
            for e in taken
            for g in gone
        )
        if clash or len(taken) - len(gone) > free_slots:
            continue
        best = max(best, worth(result, taken, gone, tau, margin))
    taken, gone = optimum(view)
    assert len(taken) - len(gone) <= free_slots
    assert worth(result, taken, gone, tau, margin) == pytest.approx(best, abs=1e-6)


def worth(found, taken, gone, tau, margin):
    """Scores gained minus scores given up; a group above -tau is paid with the swap margin."""
    costs = found.group_score[gone].astype(float)
    paid = costs[costs >= -np.float32(tau)]
    return float(found.expand_score[taken].sum()) - float(costs.sum()) - margin * len(paid)


def test_optimal_takes_n_diff_of_the_optimum_and_no_group_outside_it():
    scores = [0.9, 0.8, 0.7, 0.1, 0.0, -0.1, -0.15, 0]
    view = view_of([1, 1, 1, 0, 0, 0, 0, 0], scores, free_slots=0, n_diff=4)
    decision = make_allocator("optimal").propose(view)
    assert seen(decision.actions) == [(1, 1, 6), (0, 1, 0), (1, 1, 5), (0, 1, 1)]
    assert why(decision)[0, 1, 2] == Reason.N_DIFF
    costly = view_of([1, 0, 0, 0], [0.3, 0.25, 0.28, 0], free_slots=0)
    decision = make_allocator("optimal").propose(costly)
    assert len(decision.actions) == 0
    assert why(decision)[0, 1, 0] == Reason.GAIN


class Says:
    def __init__(self, preferences):
        self.preferences = np.array(preferences, np.float32)

    def act(self, features):
        return self.preferences


def test_learned_does_what_its_policy_prefers():
    allocator = make_allocator(
        "transformer", {"policy": Says([[1, 0], [3, 0], [0, 0], [0, 2], [0, 0]])}
    )
    view = view_of([1, 1, 1, 0, 0], [0.9, 0.3, 0.8, 0.1, 0], free_slots=2)
    decision = allocator.propose(view)
    assert seen(decision.actions) == [(0, 1, 1), (1, 1, 3), (0, 1, 0)]
    assert (decision.actions["reason"] == Reason.POLICY).all()
    assert allocator.fallbacks == 0


@pytest.mark.parametrize(
    "preferences",
    [
        [[0, 0], [0, 0], [0, 0], [0, 0], [1, 0]],  # a raw block cannot expand
        [[0, 1], [0, 0], [0, 0], [0, 0], [0, 0]],  # its siblings are not all there
        [[0, 0], [0, 0], [0, 0], [0, 0], [0, 1]],  # protected
        [[0, 0], [0, 0], [1, 0], [0, 0], [0, 0]],  # scores below tau_expand
        [[0, np.nan], [0, 0], [0, 0], [0, 0], [0, 0]],
        [[0, 0]],
    ],
)
def test_learned_falls_back_to_greedy_when_its_policy_errs(preferences, caplog):
    allocator = make_allocator("learned", {"policy": Says(preferences)})
    view = view_of([1, 1, 1, 0, 0], [0.9, 0.3, 0.0, 0.1, 0], free_slots=2)
    decision = allocator.propose(view)
    assert decision.actions.tobytes() == make_allocator("greedy").propose(view).actions.tobytes()
    allocator.propose(view)
    assert allocator.fallbacks == 2
    assert [r.message for r in caplog.records] == [
        "An action of the learned allocator was illegal; greedy took over."
    ]


def test_a_policy_survives_its_files(tmp_path):
    random = np.random.default_rng(0)
    policy = MlpPolicy(
        (random.normal(size=(6, 5)).astype("f4"), random.normal(size=(5, 2)).astype("f4")),
        (np.zeros(5, "f4"), np.zeros(2, "f4")),
    )
    policy.save(tmp_path / "p")
    again = make_allocator("learned", {"path": str(tmp_path / "p")})
    features = policy_features(view_of([1, 0, 0], [0.9, 0.1, 0]))
    assert features.shape == (3, 6)
    assert np.array_equal(again.policy.act(features), policy.act(features))


def test_bad_policies_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"allocator\.path"):
        make_allocator("learned")
    with pytest.raises(ConfigError, match="no usable policy"):
        make_allocator("learned", {"path": str(tmp_path)})
    with pytest.raises(ConfigError, match="layer 0"):
        MlpPolicy((np.zeros((3, 2), "f4"),), (np.zeros(2, "f4"),))
    with pytest.raises(ConfigError, match="3 outputs"):
        MlpPolicy((np.zeros((6, 3), "f4"),), (np.zeros(3, "f4"),))
    policy = MlpPolicy((np.zeros((6, 2), "f4"),), (np.zeros(2, "f4"),))
    policy.save(tmp_path)
    about = tmp_path / "policy.json"
    about.write_text(about.read_text().replace("room", "colour"))
    with pytest.raises(ConfigError, match="train it again"):
        make_allocator("learned", {"path": str(tmp_path)})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("best", {}, r"allocator\.kind: 'best' is unknown"),
        ("greedy", {"colour": 1}, "options for greedy: .*colour"),
        ("stochastic_greedy", {"temperature": 0}, "temperature"),
        ("stochastic_greedy", {"top_k": 0}, "top_k"),
        ("slot", {"temperature": -1.0}, "temperature"),
        ("slot", {"claim": 0}, "claim"),
    ],
)
def test_wrong_kinds_and_options_are_refused(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        make_allocator(kind, options)


@pytest.mark.parametrize("kind", sorted(ALLOCATORS))
def test_detail_follows_a_need_that_moves(kind):
    """A block deep in the past is wanted: every policy brings it raw within a few refocuses."""
    if kind in ("learned", "transformer"):
        allocator = make_allocator(kind, {"policy": ScorePolicy()})
    else:
        allocator = make_allocator(kind)
    context = WorkingContext(4, 3, 60, 1)
    focus = Focus(context, allocator)
    list(focus.ingest(4**4))
    for token in (17, 101, 30):
        for _ in range(12):
            focus.begin(Trigger.MANUAL)
            while True:
                stops = np.append(context.starts[1:], context.n_tokens)
                expected = (context.starts <= token) & (token < stops)
                result = focus.round(np.where(expected, 0.95, -0.1))
                if result.last:
                    break
        at = int(np.searchsorted(context.starts, token, side="right")) - 1
        assert context.levels[at] == 0, token


class ScorePolicy:
    def act(self, features):
        return np.stack([features[:, 0] - 0.2, np.zeros(len(features), np.float32)], axis=1)
