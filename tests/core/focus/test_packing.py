"""Packing against exhaustive search on small trees."""

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.core.focus.packing import coarsest_levels, fewest_nodes, fill_levels, reach


def fewest_by_search(first, last, size, max_levels):
    @lru_cache(None)
    def best(at):
        if at == last:
            return 0
        result = []
        for level in range(1, max_levels + 1):
            width = size ** (level - 1)
            if at % width == 0 and at + width <= last:
                result.append(1 + best(at + width))
        return min(result)

    return best(first)


runs = st.tuples(st.integers(0, 40), st.integers(0, 90))
sizes = st.sampled_from([2, 4, 8])
depths = st.integers(1, 4)


@given(runs, sizes, depths)
def test_fewest_nodes_is_the_minimum(run, size, max_levels):
    first, last = run[0], run[0] + run[1]
    expected = fewest_by_search(first, last, size, max_levels)
    assert fewest_nodes(first, np.array([last]), size, max_levels).tolist() == [expected]
    levels = coarsest_levels(first, last, size, max_levels)
    assert len(levels) == expected
    assert int((size ** (levels.astype(int) - 1)).sum()) == last - first


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("max_levels", [1, 2, 3])
@pytest.mark.parametrize("protected", [0, 1, 3])
def test_reach_is_where_the_first_prefix_stops_fitting(size, max_levels, protected):
    for first in (0, 1, 5):
        for entries in range(3 * size + 4):
            tokens = 0
            while True:
                blocks, tail = divmod(tokens + 1, size)
                raw = min(protected, blocks)
                old = fewest_by_search(first, first + blocks - raw, size, max_levels)
                if raw * size + old + tail > entries:
                    break
                tokens += 1
            assert reach(first, entries, protected, size, max_levels) == tokens
    assert reach(0, -3, protected, size, max_levels) == 0


@given(runs, sizes, depths, st.integers(0, 200), st.integers(0, 3))
def test_fill_keeps_the_newest_raw_and_the_rest_as_fine_as_fits(
    run, size, max_levels, entries, protected
):
    first, last = run[0], run[0] + run[1]
    levels = fill_levels(first, last, entries, protected, size, max_levels)
    raw = min(protected, run[1])
    least = raw * size + fewest_by_search(first, last - raw, size, max_levels)
    if levels is None:
        assert least > entries
        return
    widths = size ** np.maximum(levels.astype(int) - 1, 0)
    ends = first + np.cumsum(widths)
    assert (ends - widths) % widths == pytest.approx(0)
    assert int(widths.sum()) == run[1]
    cost = int(np.where(levels == 0, size, 1).sum())
    assert cost <= entries
    raws = int(np.count_nonzero(levels == 0))
    assert raws >= raw
    assert (levels[len(levels) - raws :] == 0).all()
    if raws < run[1]:  # one more raw block would not fit beside the coarsest rest
        more = (raws + 1) * size + fewest_by_search(first, last - raws - 1, size, max_levels)
        fits_finer = [
            r * size + fewest_by_search(first, last - r, size, max_levels) <= entries
            for r in range(raws + 1, run[1] + 1)
        ]
        assert more > entries
        assert not any(fits_finer)
