"""Every allocator under arbitrary scores, appends, budgets and resumes keeps every invariant.

The checker below shares no code with the product: nodes are Python tuples in a list, and every
action is carried out and judged by itself.
"""

import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from megacontext.core.allocators import make_allocator
from megacontext.core.focus import Focus, Limits, WorkingContext, smallest_w_max
from megacontext.traces.errors import BudgetError
from megacontext.traces.schema import MAX_REJECTED, Reason, Trigger


class WildPolicy:
    """Preferences that hash the features, at times broken ones; no sense, but no memory either."""

    def act(self, features):
        random = np.random.default_rng(zlib.crc32(features.tobytes()))
        broken = int(random.integers(10))
        if broken == 0:
            return np.full((len(features), 2), np.nan, np.float32)
        if broken == 1:
            return np.zeros((len(features), 3), np.float32)
        return random.normal(size=(len(features), 2)).astype(np.float32)


class ScorePolicy:
    """Prefers what the scores say, but knows nothing of legality."""

    def act(self, features):
        return np.stack([features[:, 0], -features[:, 0]], axis=1)


KINDS = ("greedy", "stochastic_greedy", "slot", "optimal", "learned", "wild")


def build(kind):
    if kind == "learned":
        return make_allocator("learned", {"policy": ScorePolicy()})
    if kind == "wild":
        return make_allocator("learned", {"policy": WildPolicy()})
    return make_allocator(kind)


class Naive:
    """The state by the book, and what may happen to it."""

    def __init__(self, size, max_levels, protected):
        self.size, self.max_levels, self.protected = size, max_levels, protected
        self.nodes = []
        self.n_tokens = 0
        self.flips = {}  # node -> (step, kind)
        self.armed_out = {}  # gists of the frontier that may not expand, and why they once did
        self.opened = {}  # inner nodes that were expanded, and their score then

    def width(self, level):
        return self.size ** max(level, 1)

    def cost(self):
        raw = sum(self.size for level, _ in self.nodes if level == 0)
        return raw + sum(1 for level, _ in self.nodes if level) + self.n_tokens % self.size

    def append(self, n_tokens, levels):
        self.n_tokens += n_tokens
        at = self.nodes[-1][0] if self.nodes else None
        at = 0 if at is None else (self.nodes[-1][1] + 1) * self.width(at)
        for level in levels:
            assert at % self.width(level) == 0, "aligned"
            self.nodes.append((level, at // self.width(level)))
            at += self.width(level)
        assert at == self.n_tokens - self.n_tokens % self.size, "tiles the closed blocks"

    def check_state(self, context):
        at = 0
        for level, index in self.nodes:
            assert index * self.width(level) == at
            at += self.width(level)
        assert at + self.n_tokens % self.size == self.n_tokens
        newest = self.nodes[len(self.nodes) - self.protected :] if self.protected else []
        assert all(level == 0 for level, _ in newest)
        assert [(int(a), int(b)) for a, b in zip(context.levels, context.index, strict=True)] == (
            self.nodes
        )
        assert context.starts.tolist() == [i * self.width(level) for level, i in self.nodes]
        assert context.cost == self.cost()
        assert context.n_tokens == self.n_tokens

    def score(self, scores, tau):
        for node, score in zip(self.nodes, scores, strict=True):
            fired_at = self.armed_out.get(node)
            if fired_at is not None and (score < tau or abs(score - fired_at) >= np.float32(0.1)):
                del self.armed_out[node]

    def do(self, action, step, limits, w_max):
        node = (int(action["level"]), int(action["index"]))
        level, index = node
        kind, forced = int(action["kind"]), bool(action["forced"])
        before = self.cost()
        assert 1 <= level <= self.max_levels
        children = [(level - 1, index * self.size + k) for k in range(self.size)]
        if level == 1:
            children = [(0, index)]
        if kind == 0:
            assert not forced
            if not limits.reopen:
                assert node not in self.armed_out, "expanded without being armed again"
            self.armed_out.pop(node, None)
            at = self.nodes.index(node)
            self.nodes[at : at + 1] = children
            self.opened[node] = np.float32(action["score"])
        else:
            end = (index + 1) * self.width(level)
            closed = self.n_tokens // self.size
            assert end <= (closed - self.protected) * self.size, "protected"
            at = self.nodes.index(children[0])
            assert self.nodes[at : at + len(children)] == children, "complete siblings"
            self.nodes[at : at + len(children)] = [node]
            for child in children:
                self.armed_out.pop(child, None)
            if node in self.opened:
                self.armed_out[node] = self.opened.pop(node)
        last = self.flips.get(node)
        cooldown = 0 if kind == 0 and limits.reopen else limits.cooldown_steps
        if last is not None and last[1] != kind and last[0] + cooldown >= step:
            assert forced, "flipped in cooldown by choice"
            assert action["reason"] == Reason.FORCED_OVERRIDE, "flipped in cooldown unsaid"
        self.flips[node] = (step, kind)
        assert self.cost() - before == action["cost"]
        assert self.cost() <= w_max or self.cost() < before, "budget after every action"


def row_of(result):
    return SimpleNamespace(
        step=result.step,
        round=result.round,
        history_tokens=result.n_tokens,
        levels=result.levels,
        scores=result.scores,
        actions=result.actions,
        w_max=result.w_max,
    )


SCORES = ("random", "coarse", "constant", "nan", "infinite", "short", "anti", "fixed", "none")


class FocusMachine(RuleBasedStateMachine):
    @initialize(
        kind=st.sampled_from(KINDS),
        size=st.sampled_from([2, 4, 8, 32]),
        max_levels=st.integers(1, 4),
        protected=st.integers(0, 3),
        slack=st.integers(0, 300),
        cooldown=st.integers(0, 3),
        seed=st.integers(0, 1000),
    )
    def start(self, kind, size, max_levels, protected, slack, cooldown, seed):
        self.kind, self.seed = kind, seed
        self.shape = (size, max_levels)
        self.protected = protected
        self.least = smallest_w_max(size, max_levels, protected)
        self.limits = Limits(n_diff=4, cooldown_steps=cooldown)
        self.focus = self.fresh(self.least + slack)
        self.naive = Naive(size, max_levels, protected)
        self.rows = []
        self.collapsed = set()
        self.draws = 0

    def fresh(self, w_max):
        context = WorkingContext(*self.shape, w_max, self.protected)
        return Focus(context, build(self.kind), self.limits, self.seed)

    @rule(tokens=st.integers(1, 5000))
    def append(self, tokens):
        context = self.focus.working_context
        before, free = context.n_tokens, context.free
        most = context.max_append()
        size, max_levels = self.shape
        if free >= size and context.n_tokens + size < size ** (max_levels + 1):
            assert most >= size
        tokens = min(tokens, most)
        levels = self.focus.append(tokens)
        self.naive.append(tokens, levels.tolist())
        assert context.n_tokens == before + tokens
        assert context.cost <= max(context.w_max, context.w_max - free)

    def scores(self, how):
        self.draws += 1
        random = np.random.default_rng([self.seed, self.draws])
        count = len(self.naive.nodes)
        if how == "random":
            return random.uniform(-1, 1, count).astype(np.float32)
        if how == "coarse":
            return random.choice([-1.0, -0.2, 0.2, 0.5, 1.0], count)
        if how == "constant":
            return np.full(count, random.choice([-0.9, 0.0, 0.9]))
        if how == "nan":
            return np.where(random.uniform(size=count) < 0.3, np.nan, 0.9)
        if how == "infinite":
            return np.where(random.uniform(size=count) < 0.3, np.inf, -1e30)
        if how == "short":
            return np.ones(count + int(random.choice([-1, 1])) if count else 3)
        if how == "anti":
            return np.array([1.0 if node in self.collapsed else -0.5 for node in self.naive.nodes])
        if how == "fixed":
            return np.array([hash_score(node, self.seed) for node in self.naive.nodes])
        return None

    @rule(
        how=st.sampled_from(SCORES),
        n_diff=st.sampled_from([0, 1, 2, 4, 9]),
        rounds=st.integers(1, 4),
        twin=st.booleans(),
        reopen=st.booleans(),
    )
    def refocus(self, how, n_diff, rounds, twin, reopen):
        other = self.rebuilt() if twin else None
        limits = replace(self.limits, n_diff=n_diff, rounds=rounds, reopen=reopen)
        step = self.focus.begin(Trigger.BLOCK_CLOSED, limits)
        if other is not None:
            assert other.begin(Trigger.BLOCK_CLOSED, limits) == step
        for number in range(rounds):
            scores = self.scores(how)
            result = self.focus.round(scores)
            self.judge(result, scores, step, number, limits)
            if other is not None:
                same = other.round(scores)
                assert same.actions.tobytes() == result.actions.tobytes()
                assert same.rejected.tobytes() == result.rejected.tobytes()
            if result.last:
                break
        assert self.focus.working_context.free >= self.shape[0], "headroom"

    def judge(self, result, scores, step, number, limits):
        assert (result.step, result.round) == (step, number)
        assert result.levels.tolist() == [level for level, _ in self.naive.nodes]
        if scores is None:
            assert result.scores is None
        else:
            used = result.scores.astype(np.float32)
            assert np.isfinite(used).all()
            assert used.shape == (len(self.naive.nodes),)
            self.naive.score(used, np.float32(limits.tau_expand))
        before = set(self.naive.armed_out)
        voluntary = 0
        context = self.focus.working_context
        self.collapsed = set()
        for action in result.actions:
            self.naive.do(action, step, limits, result.w_max)
            if action["forced"]:
                assert (voluntary, number) == (0, 0), "forced ones come first, in round 0"
            else:
                voluntary += 1
                left = result.w_max - self.naive.cost()
                assert left >= self.shape[0], "a voluntary action broke headroom"
            if action["kind"] == 1:
                self.collapsed.add((int(action["level"]), int(action["index"])))
        for turned in result.rejected[result.rejected["reason"] == Reason.NOT_REARMED]:
            assert not limits.reopen, "a question needs no new evidence"
            node = (int(turned["level"]), int(turned["index"]))
            assert node in before | set(self.naive.armed_out), "armed, but turned down"
        assert voluntary <= limits.n_diff
        assert result.settled == (voluntary == 0)
        assert len(result.rejected) <= MAX_REJECTED
        assert (result.rejected["reason"] >= 6).all()
        assert result.budget_used == context.cost == self.naive.cost()
        self.rows.append(row_of(result))

    @rule(change=st.integers(-400, 400))
    def change_budget(self, change):
        context = self.focus.working_context
        w_max = max(self.least, context.w_max + change)
        try:
            self.focus.set_w_max(w_max)
        except BudgetError:
            assert w_max < context.w_max  # the history is too long for that
        self.refocus("random", 4, 1, False, False)

    def rebuilt(self):
        """A focus made from the recorded rows alone, brought to the present."""
        other = self.fresh(self.focus.working_context.w_max)
        if self.rows:
            other.rebuild(self.rows)
        present = self.focus.working_context
        if self.rows:
            other.set_w_max(present.w_max)
        known = len(other.working_context)
        other.extend(present.levels[known:], present.n_tokens)
        return other

    @precondition(lambda self: self.rows)
    @rule()
    def resume(self):
        other = self.rebuilt()
        assert np.array_equal(other.ages, self.focus.ages)
        self.focus = other

    @invariant()
    def state_is_legal(self):
        if hasattr(self, "naive"):
            self.naive.check_state(self.focus.working_context)


def hash_score(node, seed):
    level, index = node
    return ((level * 7919 + index * 104729 + seed * 31) * 2654435761 % 2003) / 1001.0 - 1.0


TestFocusMachine = FocusMachine.TestCase
TestFocusMachine.settings = settings(max_examples=60, stateful_step_count=20)


@pytest.mark.parametrize("kind", KINDS)
@given(
    size=st.sampled_from([2, 4, 8]),
    max_levels=st.integers(1, 3),
    slack=st.integers(0, 120),
    blocks=st.integers(0, 60),
    seed=st.integers(0, 10_000),
    cooldown=st.integers(0, 2),
    questions=st.integers(0, 4),
)
@settings(max_examples=25)
def test_fixed_scores_reach_a_fixed_point(
    kind, size, max_levels, slack, blocks, seed, cooldown, questions
):
    w_max = smallest_w_max(size, max_levels, 1) + slack
    context = WorkingContext(size, max_levels, w_max, 1)
    limits = Limits(cooldown_steps=cooldown)
    focus = Focus(context, build(kind), limits, seed)
    focus.append(min(blocks * size, context.max_append()))
    # Each node can be expanded at most (1 + questions) * 2 ** (levels above) times, each expand is
    # undone once, original nodes collapse once, and cooldowns may hold every action up.
    nodes = 2 * blocks + 2
    bound = (2 * (1 + questions) * 2**max_levels * nodes + 2) * (cooldown + 2)
    quiet = 0
    for number in range(bound):
        asks = number % 3 == 2 and number // 3 < questions
        focus.begin(Trigger.QUESTION if asks else Trigger.MANUAL, replace(limits, reopen=asks))
        acted = 0
        while True:
            nodes_now = zip(context.levels.tolist(), context.index.tolist(), strict=True)
            result = focus.round(np.array([hash_score(node, seed) for node in nodes_now]))
            acted += len(result.actions)
            if result.last:
                break
        quiet = 0 if acted else quiet + 1
        if quiet > cooldown + 12 and number // 3 >= questions:
            return
    raise AssertionError("no fixed point")
