"""Tilings for training are legal, complete and index what they say."""

from itertools import product

import numpy as np
import pytest

from megacontext.core.focus import WorkingContext
from megacontext.core.focus.tilings import Span, all_tilings, batch_tilings, sample_tilings
from megacontext.traces.errors import BudgetError, PlanError


def by_search(span):
    """All sequences of levels that tile the span, by trying every level at every place."""
    size = span.block_size
    protected = span.stop - min(span.protected_blocks, (span.stop - span.start) // size) * size
    result = set()

    def rest(at, done):
        if at == span.stop:
            if sum(1 if level else size for level in done) <= span.budget:
                result.add(tuple(done))
            return
        for level in range(span.max_levels + 1):
            width = size ** max(level, 1)
            if at % width == 0 and at + width <= (span.stop if level == 0 else protected):
                rest(at + width, [*done, level])

    rest(span.start, [])
    return result


@pytest.mark.parametrize(
    ("start", "blocks", "protected"), list(product([0, 2, 6], [0, 1, 5, 8], [0, 1]))
)
def test_all_tilings_are_exactly_the_legal_ones(start, blocks, protected):
    for budget in (7, 10, 16):
        try:
            span = Span(start, start + 2 * blocks, 2, 3, budget, protected)
        except BudgetError:
            assert blocks
            continue
        tilings = [tuple(levels.tolist()) for levels in all_tilings(span)]
        assert len(tilings) == len(set(tilings))
        assert set(tilings) == by_search(span)


def test_samples_are_legal_and_reach_every_tiling():
    span = Span(0, 12, 2, 3, 10, 1)
    legal = by_search(span)
    batch = sample_tilings(span, 3000, seed=1)
    drawn = {
        tuple(levels[:count].tolist())
        for levels, count in zip(batch.levels, batch.nodes, strict=True)
    }
    assert drawn == legal


def test_samples_depend_on_seed_and_draw_alone():
    span = Span(0, 4**4, 4, 3, 100)
    one, same = sample_tilings(span, 8, 5, 2), sample_tilings(span, 8, 5, 2)
    other = sample_tilings(span, 8, 5, 3)
    assert np.array_equal(one.levels, same.levels)
    assert not np.array_equal(one.levels[:, :4], other.levels[:, :4])


def test_batch_maps_entries_and_tokens():
    span = Span(4, 36, 4, 2, 40, 1)
    batch = batch_tilings(span, [[1, 0, 1, 2, 0], span.coarsest()])
    assert batch.nodes.tolist()[0] == 5
    assert batch.index[0].tolist()[:5] == [1, 2, 3, 1, 8]
    assert batch.starts[0].tolist()[:5] == [4, 8, 12, 16, 32]
    assert batch.entries.tolist()[0] == 11
    assert batch.entry_node[0][:11].tolist() == [0, 1, 1, 1, 1, 2, 3, 4, 4, 4, 4]
    for row in range(2):
        for token in range(span.start, span.stop):
            entry = batch.token_entry[row, token - span.start]
            assert batch.entry_start[row, entry] <= token < batch.entry_stop[row, entry]
        pad = slice(batch.entries[row], None)
        assert (batch.entry_node[row, pad] == -1).all()
        assert (batch.levels[row, batch.nodes[row] :] == -1).all()


def test_batch_agrees_with_a_working_context():
    span = Span(0, 4**3, 4, 3, 50, 1)
    batch = sample_tilings(span, 20, 0)
    for row in range(20):
        count = batch.nodes[row]
        context = WorkingContext.from_levels(
            batch.levels[row, :count], 4**3, block_size=4, max_levels=3, w_max=80
        )
        assert np.array_equal(context.index, batch.index[row, :count])
        spans = context.entry_spans()
        assert np.array_equal(spans[:, 0], batch.entry_start[row, : batch.entries[row]])
        assert np.array_equal(spans[:, 1], batch.entry_stop[row, : batch.entries[row]])


@pytest.mark.parametrize("levels", [[0], [2, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 0], [0] * 8])
def test_illegal_tilings_are_refused(levels):
    with pytest.raises(PlanError, match="no legal tiling"):
        batch_tilings(Span(4, 36, 4, 2, 20), [levels])


def test_impossible_spans_are_refused():
    with pytest.raises(PlanError, match="block_size 4"):
        Span(2, 8, 4, 2, 20)
    with pytest.raises(BudgetError, match="at least 8"):
        Span(0, 8, 4, 2, 7, protected_blocks=2)
