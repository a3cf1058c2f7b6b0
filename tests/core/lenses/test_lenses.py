"""What each control lens looks at."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.core.allocators import make_allocator
from megacontext.core.focus import Focus, WorkingContext
from megacontext.core.focus.tilings import Span, sample_tilings
from megacontext.core.lenses import BM25, LENSES, Observation, Similarity, make_lens
from megacontext.core.lenses.blocks import (
    BAR,
    match_strength,
    pool_blocks,
    recency_prior,
    share_neighbours,
)
from megacontext.core.lenses.postings import Postings
from megacontext.traces.errors import ConfigError
from megacontext.traces.schema import Trigger

SIZE = 4


class FakeTree:
    """Keys and tokens as given; only what lenses read."""

    def __init__(self, keys=None, tokens=None):
        self._keys, self._tokens = keys, tokens

    def keys(self, level, start, stop):
        assert level == 1
        return self._keys[start:stop]

    def tokens(self, start, stop):
        return self._tokens[start:stop]


def seen(levels, tail=0, **fields):
    levels = np.array(levels, np.int8)
    width = SIZE ** np.maximum(levels, 1).astype(np.int64)
    stops = np.cumsum(width)
    starts = stops - width
    return Observation(
        levels=levels,
        index=starts // width,
        starts=starts,
        n_tokens=(int(stops[-1]) if len(levels) else 0) + tail,
        tail_tokens=tail,
        block_size=SIZE,
        **fields,
    )


def test_stops_end_where_the_next_entry_starts():
    assert seen([2, 1, 0], tail=3).stops.tolist() == [16, 20, 24]
    assert seen([], tail=3).stops.tolist() == []


def test_recency_falls_with_distance_within_its_range():
    scores = make_lens("recency").score(seen([2, 2, 1, 1, 0, 0, 0]))
    assert (np.diff(scores) > 0).all()
    assert scores[-1] == 1
    assert scores[0] > -0.2


def test_recency_never_collapses_for_itself():
    far = seen([3, 3, 3, 0])
    assert make_lens("recency").score(far).min() > -0.2


def test_random_depends_on_seed_step_and_round():
    lens = make_lens("random")
    base = lens.score(seen([1, 0], seed=1, step=2, round=1))
    assert np.array_equal(base, lens.score(seen([1, 0], seed=1, step=2, round=1)))
    for other in ({"seed": 2}, {"step": 3}, {"round": 2}):
        given_ = {"seed": 1, "step": 2, "round": 1} | other
        assert not np.array_equal(base, lens.score(seen([1, 0], **given_)))
    assert np.abs(base).max() <= 1


def test_attention_compares_mass_with_a_fair_share():
    window = seen([1, 1, 0], attention=np.array([1, 1, 4], np.float32))
    assert make_lens("attention").score(window) == pytest.approx([0, 0, 0], abs=1e-6)
    window = seen([1, 1, 0], attention=np.array([4, 0, 4], np.float32))
    scores = make_lens("attention").score(window)
    assert scores[0] > 0.2 > scores[2]
    assert scores[1] == pytest.approx(-1, abs=0.01)
    nothing = seen([1, 0], attention=np.zeros(2, np.float32))
    assert make_lens("attention").score(nothing).tolist() == [0, 0]
    with pytest.raises(ConfigError, match="attention"):
        make_lens("attention").score(seen([1, 0]))


@given(st.integers(0, 10**6))
def test_oracle_lights_exactly_the_nodes_over_wanted_spans(seed):
    batch = sample_tilings(Span(0, 40 * SIZE, SIZE, 3, 120, 1), 1, seed)
    random = np.random.default_rng(seed)
    target_spans = np.sort(random.integers(0, 40 * SIZE + 9, (random.integers(4), 2)), axis=1)
    window = seen(batch.levels[0, : batch.nodes[0]], tail=2, target_spans=target_spans)
    scores = make_lens("oracle").score(window)
    for start, stop, score in zip(window.starts, window.stops, scores, strict=True):
        lit = any(a < stop and start < b and a < b for a, b in target_spans)
        assert (score == 1) == lit
        assert lit or -0.2 < score < 0.2


def planted(match_at, blocks=64, dim=16, seed=0, strength=1.0):
    random = np.random.default_rng(seed)
    keys = random.normal(size=(blocks, dim)).astype(np.float32)
    query = random.normal(size=dim).astype(np.float32)
    for at in match_at:
        keys[at] = strength * query * 2
    return FakeTree(keys=keys), query[None]


@pytest.mark.parametrize("levels", [[3] + [0] * 48, [2] * 4 + [0] * 48, [1] * 16 + [0] * 48])
def test_similarity_finds_a_match_under_any_depth_of_gists(levels):
    tree, query = planted([5])
    lens = Similarity(lambda tokens: query)
    window = seen(levels, tree=tree, query_tokens=np.arange(3, dtype=np.uint32))
    scores = lens.score(window)
    holding = (window.starts <= 5 * SIZE) & (window.stops > 5 * SIZE)
    assert scores[holding] > 0.85
    assert (scores <= 1).all()


def test_similarity_shares_a_match_with_its_neighbours():
    tree, query = planted([20])
    window = seen([1] * 63 + [0], tree=tree, query_tokens=np.arange(2, dtype=np.uint32))
    scores = Similarity(lambda tokens: query).score(window)
    assert (scores[19:22] > 0.2).all()
    assert np.argmax(scores) == 20


def test_similarity_ignores_the_blocks_that_hold_the_query():
    tree, query = planted([61, 62, 63, 10])
    tokens = np.arange(9, dtype=np.uint32)  # the newest nine tokens: blocks 61, 62, 63
    window = seen([1] * 63 + [0], tree=tree, query_tokens=tokens)
    scores = Similarity(lambda tokens: query).score(window)
    assert np.argmax(scores) == 10
    assert (scores[61:] < 0.2).all()


def test_similarity_without_query_or_tree_is_the_recency_prior():
    tree, query = planted([3])
    lens = Similarity(lambda tokens: query)
    window = seen([1] * 63 + [0], tree=tree)
    assert np.array_equal(lens.score(window), recency_prior(window))
    window = seen([1, 0], query_tokens=np.arange(2, dtype=np.uint32))
    assert np.array_equal(lens.score(window), recency_prior(window))
    assert len(lens.score(seen([], tree=tree, query_tokens=np.arange(2, dtype=np.uint32)))) == 0


def test_strength_is_free_of_scale_and_offset():
    random = np.random.default_rng(0)
    blocks = random.normal(size=500).astype(np.float32)
    strength = match_strength(blocks)
    assert match_strength(100 * blocks + 7) == pytest.approx(strength, abs=1e-3)
    assert match_strength(np.ones(9, np.float32)).tolist() == [0] * 9
    assert match_strength(np.ones(1, np.float32)).tolist() == [0]


def test_noise_rarely_reaches_the_bar_and_many_clear_matches_pass_together():
    random = np.random.default_rng(1)
    lifted = [
        np.count_nonzero(match_strength(random.normal(size=1000).astype("f4")) >= BAR)
        for _ in range(50)
    ]
    assert 0 < sum(lifted) <= 25
    blocks = random.normal(size=1000).astype("f4")
    blocks[100:120] = 12
    assert (match_strength(blocks)[100:120] > 0.9).all()
    assert np.count_nonzero(match_strength(blocks, mark=4.0) >= BAR) == 0


@pytest.mark.parametrize("topic_change", [0.05, 0.1])
def test_similarity_exchanges_a_healthy_share_of_the_detail_on_drifting_topics(topic_change):
    random = np.random.default_rng(3)
    topics, blocks, block = random.normal(size=(20, 64)), 400, 32
    topic = np.cumsum(random.uniform(size=blocks) < topic_change) * 7 % 20
    keys = (0.7 * topics[topic] + random.normal(size=(blocks, 64))).astype(np.float32)
    context = WorkingContext(block, 4, 1024, 2)
    focus = Focus(context, make_allocator("greedy"))
    newest = [0]
    noise = random.normal(size=(blocks, 64)).astype(np.float32)
    lens = Similarity(lambda tokens: 0.7 * keys[newest] + 0.3 * noise[newest])
    rates = []
    for at in range(blocks):
        focus.append(block)
        newest[0] = at
        step, raw, swaps = focus.begin(Trigger.BLOCK_CLOSED), 0, 0
        while True:
            observation = Observation(
                levels=context.levels,
                index=context.index,
                starts=context.starts,
                n_tokens=context.n_tokens,
                tail_tokens=0,
                block_size=block,
                tree=FakeTree(keys=keys),
                step=step,
                query_tokens=np.zeros(block, np.uint32),
            )
            raw = max(raw, int(np.count_nonzero(context.levels == 0)))
            result = focus.round(lens.score(observation))
            swaps += int(np.count_nonzero(~result.actions["forced"]))
            if result.last:
                break
        rates.append(swaps / raw)
    assert 0.02 < np.mean(rates[100:]) < 0.20


def test_only_strong_blocks_share():
    shared = share_neighbours(np.array([0, 0.8, 0, 0.15, 0, 0, 0.1, 0.6], np.float32), 0.5)
    assert shared == pytest.approx([0.4, 0.8, 0.4, 0.15, 0, 0, 0.3, 0.6])


@given(st.integers(0, 10**6))
def test_pooling_takes_the_best_block_under_each_node(seed):
    batch = sample_tilings(Span(0, 40 * SIZE, SIZE, 3, 120, 1), 1, seed)
    blocks = np.random.default_rng(seed).normal(size=40).astype(np.float32)
    window = seen(batch.levels[0, : batch.nodes[0]])
    expected = [
        blocks[a // SIZE : b // SIZE].max()
        for a, b in zip(window.starts, window.stops, strict=True)
    ]
    assert pool_blocks(blocks, window).tolist() == expected


def test_bm25_finds_rare_words_and_grows_with_the_history():
    random = np.random.default_rng(0)
    tokens = random.integers(0, 40, 64 * SIZE).astype(np.uint32)
    tokens[7 * SIZE + 1] = 999
    tokens[50 * SIZE + 1] = 777
    lens = BM25(mark=1.0)
    tree = FakeTree(tokens=tokens)
    query = np.array([3, 999, 777], np.uint32)
    early = lens.score(seen([1] * 31 + [0], tree=tree, query_tokens=query))
    assert np.argmax(early) == 7
    late = lens.score(seen([2] * 4 + [1] * 47 + [0], tree=tree, query_tokens=query))
    assert set(np.flatnonzero(late > 0.5).tolist()) >= {1, 4 + 50 - 16}
    whole = BM25(mark=1.0).score(seen([2] * 4 + [1] * 47 + [0], tree=tree, query_tokens=query))
    assert np.array_equal(late, whole)
    shorter = lens.score(seen([1] * 31 + [0], tree=tree, query_tokens=query))
    assert np.array_equal(shorter, early)


def test_bm25_is_the_textbook_formula():
    tokens = np.array([1, 1, 2, 3, 2, 2, 4, 5, 6, 7, 8, 9], np.uint32)
    lens = BM25()
    lens.score(seen([1, 1, 0], tree=FakeTree(tokens=tokens)))
    scores = lens._bm25(np.array([1, 2]))

    def idf(holding):
        return np.log1p((3 - holding + 0.5) / (holding + 0.5))

    def term(count):
        return count * 2.2 / (count + 1.2)

    expected = [idf(1) * term(2) + idf(2) * term(1), idf(2) * term(2), 0]
    assert scores == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(0, 1000))
def test_postings_hold_what_was_added_whatever_the_batches(batches, seed):
    random = np.random.default_rng(seed)
    tokens = random.integers(0, 9, (sum(batches), SIZE)).astype(np.uint32)
    postings, done = Postings(), 0
    for batch in batches:
        postings.add(tokens[done : done + batch])
        done += batch
    words = np.array([0, 3, 8, 100])
    result = zip(*(column.tolist() for column in postings.find(words)), strict=True)
    expected = [
        (place, block, int(np.count_nonzero(tokens[block] == word)))
        for place, word in enumerate(words)
        for block in range(len(tokens))
        if (tokens[block] == word).any()
    ]
    assert sorted(result) == expected


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("eyes", {}, r"lens\.kind: 'eyes' is unknown"),
        ("recency", {"colour": 1}, "options for recency"),
        ("similarity", {}, "options for similarity"),
    ],
)
def test_wrong_kinds_and_options_are_refused(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        make_lens(kind, options)


def test_registry_names_are_the_lenses_own():
    for kind in LENSES:
        options = {"encode_query": lambda tokens: tokens} if kind == "similarity" else {}
        assert make_lens(kind, options).name == kind
