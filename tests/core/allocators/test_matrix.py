"""Every allocator with every lens over one small session: legal, deterministic, recorded whole."""

import numpy as np
import pytest

from megacontext.core.allocators import ALLOCATORS, make_allocator
from megacontext.core.focus import Focus, Limits, WorkingContext
from megacontext.core.lenses import LENSES, Observation, make_lens
from megacontext.traces.schema import MAX_REJECTED, ActionKind, Reason, Trigger

SIZE, LEVELS, W_MAX = 4, 3, 48
DIM = 12


class History:
    """Random tokens whose keys are sums of token vectors; a tree as far as lenses can see."""

    def __init__(self, seed):
        random = np.random.default_rng(seed)
        self.all = random.integers(0, 50, 600).astype(np.uint32)
        self.vectors = random.normal(size=(50, DIM)).astype(np.float32)

    def tokens(self, start, stop):
        return self.all[start:stop]

    def keys(self, level, start, stop):
        return self.vectors[self.all[start * SIZE : stop * SIZE]].reshape(-1, SIZE, DIM).sum(1)

    def encode(self, tokens):
        return self.vectors[tokens][None].sum(1)


class Policy:
    def act(self, features):
        return np.stack([features[:, 0] - 0.2, -0.2 - features[:, 0]], axis=1)


def make(kind):
    return make_allocator(kind, {"policy": Policy()} if "policy" in options_of(kind) else {})


def options_of(kind):
    return ("policy",) if kind in ("learned", "transformer") else ()


def session(allocator, lens_kind, steps=60):
    """Results of every round of a stream in pieces of 7 tokens."""
    history = History(1)
    lens = make_lens(
        lens_kind, {"encode_query": history.encode} if lens_kind == "similarity" else {}
    )
    context = WorkingContext(SIZE, LEVELS, W_MAX, 1)
    focus = Focus(context, make(allocator), Limits(), seed=5)
    results = []
    for _ in range(steps):
        focus.append(min(7, context.max_append()))
        step = focus.begin(Trigger.BLOCK_CLOSED)
        while True:
            count = len(context)
            newest = context.n_tokens
            observation = Observation(
                levels=context.levels,
                index=context.index,
                starts=context.starts,
                n_tokens=newest,
                tail_tokens=context.tail_tokens,
                block_size=SIZE,
                tree=history,
                step=step,
                round=len(results) % 3,
                seed=5,
                query_tokens=history.tokens(max(0, newest - 5), newest),
                attention=np.random.default_rng(step).uniform(size=count).astype(np.float32),
                target_spans=np.array([[step * 3, step * 3 + 6]]),
            )
            scores = lens.score(observation)
            assert scores.shape == (count,)
            assert np.abs(scores).max(initial=0) <= 1
            results.append(focus.round(scores))
            assert context.cost <= W_MAX
            if results[-1].last:
                break
        assert context.free >= SIZE
    return results


@pytest.mark.parametrize("lens", sorted(LENSES))
@pytest.mark.parametrize("allocator", sorted(ALLOCATORS))
def test_sessions_are_legal_and_repeat_byte_for_byte(allocator, lens):
    one, two = session(allocator, lens), session(allocator, lens)
    assert sum(len(result.actions) for result in one) > 0
    assert len(one) == len(two)
    for result, same in zip(one, two, strict=True):
        assert result.actions.tobytes() == same.actions.tobytes()
        assert result.rejected.tobytes() == same.rejected.tobytes()
        assert result.levels.tobytes() == same.levels.tobytes()
        assert result.bad_scores == 0
        check_columns(result)


def check_columns(result):
    actions, rejected = result.actions, result.rejected
    assert set(actions["reason"].tolist()) <= {int(r) for r in Reason if r < 16}
    turned = {int(r) for r in Reason if r >= 16} | {int(Reason.COMPETITION)}
    assert set(rejected["reason"].tolist()) <= turned
    assert len(rejected) <= MAX_REJECTED
    strength = np.abs(rejected["score"].astype(np.float32))
    assert (np.diff(strength) <= 0).all()
    expand = actions["kind"] == ActionKind.EXPAND
    assert (actions["cost"][expand] == SIZE - 1).all()
    assert (actions["cost"][~expand] == 1 - SIZE).all()
    named = [tuple(node) for node in rejected[["kind", "level", "index"]].tolist()]
    assert len(named) == len(set(named)), "a candidate is turned down once"
    taken = {tuple(node) for node in actions[["kind", "level", "index"]].tolist()}
    assert not taken & set(named), "what was done was not turned down"
