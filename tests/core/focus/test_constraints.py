"""The vectorized masks find exactly the candidates that a search by the book finds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megacontext.core.focus.constraints import OPEN, Cooldowns, find_candidates, order_key
from megacontext.core.focus.tilings import Span, sample_tilings
from megacontext.traces.schema import Reason


def random_frontier(size, max_levels, blocks, seed):
    span = Span(0, blocks * size, size, max_levels, blocks * size, protected_blocks=1)
    batch = sample_tilings(span, 1, seed)
    return batch.levels[0], batch.index[0], batch.starts[0]


def by_the_book(levels, index, size, max_levels):
    nodes = list(zip(levels.tolist(), index.tolist(), strict=True))
    places = {node: at for at, node in enumerate(nodes)}
    groups = {}
    for level, i in nodes:
        if level == 0:
            groups[1, i] = [places[level, i]]
        elif level < max_levels:
            siblings = [(level, i // size * size + k) for k in range(size)]
            if all(node in places for node in siblings):
                groups[level + 1, i // size] = [places[node] for node in siblings]
    return nodes, groups


@given(
    size=st.sampled_from([2, 4, 8]),
    max_levels=st.integers(1, 4),
    blocks=st.integers(1, 80),
    seed=st.integers(0, 10**6),
    protected=st.integers(0, 1),
)
def test_candidates_are_those_of_a_search_by_the_book(size, max_levels, blocks, seed, protected):
    levels, index, starts = random_frontier(size, max_levels, blocks, seed)
    random = np.random.default_rng(seed)
    count = len(levels)
    scores = random.uniform(-1, 1, count).astype(np.float16).astype(np.float32)
    disarmed = random.uniform(size=count) < 0.2
    nodes, groups = by_the_book(levels, index, size, max_levels)
    flipped = [(0, *node) for node in groups if random.uniform() < 0.2]
    flipped += [(1, *node) for node in nodes if node[0] and random.uniform() < 0.2]
    flipped += [(0, 2, 0), (1, 1, 10**9), (0, 1, 0)]
    kinds, of_level, of_index = zip(*flipped, strict=True)
    result = find_candidates(
        levels,
        index,
        starts,
        scores,
        tau_expand=0.2,
        block_size=size,
        max_levels=max_levels,
        protected_blocks=protected,
        disarmed=disarmed,
        cooling=Cooldowns(np.array(kinds, np.int8), np.array(of_level), np.array(of_index)),
    )
    wants = [at for at in range(count) if levels[at] and scores[at] > np.float32(0.2)]
    assert result.expand_at.tolist() == wants
    assert np.array_equal(result.expand_score, scores[wants])
    for at, reason in zip(result.expand_at.tolist(), result.expand_reason.tolist(), strict=True):
        cooling = (1, *nodes[at]) in flipped
        expected = Reason.NOT_REARMED if disarmed[at] else OPEN
        assert reason == (Reason.COOLDOWN if cooling else expected)
    built = list(zip(result.group_level.tolist(), result.group_index.tolist(), strict=True))
    assert sorted(built) == sorted(groups)
    for row, node in enumerate(built):
        members = groups[node]
        assert result.group_at[row] == members[0]
        assert result.group_count[row] == len(members)
        assert result.group_score[row] == scores[members].max()
        expected = Reason.COOLDOWN if (0, *node) in flipped else OPEN
        if protected and members == [count - 1]:
            expected = Reason.PROTECTED
        assert result.group_reason[row] == expected


def test_order_keys_sort_by_score_then_age_exactly():
    bits = np.arange(-(2**15), 2**15).astype(np.int16).view(np.float16)
    scores = bits[np.isfinite(bits)].astype(np.float32)
    at = np.random.default_rng(0).permutation(len(scores)).astype(np.int64)
    order = np.argsort(order_key(scores, at))
    assert np.array_equal(order, np.lexsort((at, scores)))
