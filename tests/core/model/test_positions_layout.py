"""Rows of a layout and their positions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.core.model import Layout
from megacontext.core.model.layout import layout_rows, token_rows
from megacontext.core.model.positions import POSITION_MODES, row_positions

K = 4


def layout(entries, n_tokens):
    table = np.array(entries, dtype=np.int64).reshape(-1, 2)
    return Layout(table[:, 0].astype(np.int8), table[:, 1], n_tokens // K * K, n_tokens, K)


def frontier(blocks: int, picks: list[int]) -> list[tuple[int, int]]:
    """A legal tiling of ``blocks`` blocks, coarsened as ``picks`` says."""
    entries, block = [], 0
    for pick in [*picks, *[0] * blocks]:
        level = pick
        while level > 1 and (block % K ** (level - 1) or block + K ** (level - 1) > blocks):
            level -= 1
        if block >= blocks:
            break
        entries.append((level, block // K ** max(level - 1, 0)))
        block += K ** max(level - 1, 0)
    return entries


frontiers = st.builds(frontier, st.integers(0, 70), st.lists(st.integers(0, 4), max_size=30))


def test_rows_of_a_layout_name_tokens_and_gists_in_window_order():
    rows = layout_rows(layout([(2, 0), (1, 4), (0, 5)], 26))
    assert rows.levels.tolist() == [2, 1, 0, 0, 0, 0, 0, 0]
    assert rows.values.tolist() == [0, 4, 20, 21, 22, 23, 24, 25]
    assert rows.starts.tolist() == [0, 16, 20, 21, 22, 23, 24, 25]
    assert rows.widths.tolist() == [16, 4, 1, 1, 1, 1, 1, 1]


def test_a_tail_token_keeps_its_key_when_its_block_closes():
    tail = layout_rows(layout([(0, 0)], 8 - 1)).keys
    closed = layout_rows(layout([(0, 0), (0, 1)], 8)).keys
    assert closed[:-1].tolist() == tail.tolist()


@given(frontiers, st.integers(0, K - 1))
def test_rows_tile_the_history(entries, tail):
    blocks = sum(K ** max(level - 1, 0) for level, _ in entries)
    rows = layout_rows(layout(entries, blocks * K + tail))
    ends = rows.starts + rows.widths
    assert rows.starts[1:].tolist() == ends[:-1].tolist()
    assert len(rows) == 0 or (rows.starts[0] == 0 and ends[-1] == blocks * K + tail)
    assert len(set(rows.keys.tolist())) == len(rows)


@given(frontiers, st.integers(0, K - 1), st.sampled_from(POSITION_MODES), st.integers(10, 500))
def test_positions_increase_strictly_and_leave_room_for_the_next_token(entries, tail, mode, limit):
    blocks = sum(K ** max(level - 1, 0) for level, _ in entries)
    rows = layout_rows(layout(entries, blocks * K + tail))
    positions, after = row_positions(mode, rows, 300, limit)
    assert (np.diff(positions) > 0).all()
    assert len(rows) == 0 or (positions[0] >= 0 and after > positions[-1])


@given(frontiers, st.integers(0, K - 1), st.integers(100, 500))
def test_gap_and_packed_stay_inside_the_trained_range(entries, tail, limit):
    blocks = sum(K ** max(level - 1, 0) for level, _ in entries)
    rows = layout_rows(layout(entries, blocks * K + tail))
    if len(rows) > limit:
        return
    w_max = limit
    for mode in ("packed", "gap"):
        _, after = row_positions(mode, rows, w_max, limit)
        assert after + (w_max - len(rows)) <= limit


def test_packed_counts_rows():
    positions, after = row_positions("packed", layout_rows(layout([(2, 0), (0, 4)], 21)), 64, 64)
    assert (positions.tolist(), after) == ([0, 1, 2, 3, 4, 5], 6)


def test_global_puts_a_gist_at_the_centre_of_its_span():
    positions, after = row_positions("global", layout_rows(layout([(2, 0), (0, 4)], 21)), 64, 64)
    assert (positions.tolist(), after) == ([7, 16, 17, 18, 19, 20], 21)


def test_gap_is_global_while_the_history_fits_and_shrinks_gists_when_not():
    rows = layout_rows(layout([(2, 0), (1, 4), (0, 5)], 24))
    roomy, _ = row_positions("gap", rows, 10, 64)
    assert roomy.tolist() == row_positions("global", rows, 10, 64)[0].tolist()
    # Six rows and four free ones leave 20 positions for 16 + 4 + 4: G = 2 gives 8 + 2 + 4.
    tight, after = row_positions("gap", rows, 10, 20)
    assert (tight.tolist(), after) == ([3, 8, 10, 11, 12, 13], 14)


@pytest.mark.parametrize("mode", POSITION_MODES)
def test_appending_raw_tokens_moves_no_earlier_position(mode):
    before = layout_rows(layout([(2, 0), (1, 4), (0, 5)], 24))
    positions, after = row_positions(mode, before, 20, 40)
    longer, _ = row_positions(mode, before.joined(token_rows(24, 27)), 20, 40)
    assert longer.tolist() == [*positions.tolist(), after, after + 1, after + 2]
