"""Patchworks of blocks: golden blocks stay, the budget holds, coarse entries are one token."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megacontext.core.data.recall.window_sampling import (
    GROUP,
    coarse_mask,
    distractor_blocks,
    gappy_mask,
    rarest_in_blocks,
)
from megacontext.core.rng import generator

BLOCK = 8
CASES = st.tuples(
    st.integers(1, 150),  # blocks
    st.integers(0, 10_000),  # seed
    st.integers(0, 600),  # room
    st.sets(st.integers(0, 149), max_size=4),
)


def test_the_rarest_token_is_the_last_of_the_highest_id() -> None:
    tokens = np.array([1, 9, 9, 2, 5, 5, 5, 5, 7, 7], np.uint16)
    assert rarest_in_blocks(tokens, 4).tolist() == [2, 7]


@given(CASES)
def test_gappy_windows_keep_the_golden_blocks_and_as_many_as_wanted(
    case: tuple[int, int, int, set[int]],
) -> None:
    blocks, seed, room, golden = case
    golden = {b for b in golden if b < blocks}
    kept = gappy_mask(generator(seed, "kept"), blocks, golden, room // BLOCK)
    assert all(kept[b] for b in golden)
    assert int(kept.sum()) == min(blocks, max(len(golden), room // BLOCK))


@given(CASES)
def test_coarse_windows_tile_the_history(case: tuple[int, int, int, set[int]]) -> None:
    blocks, seed, room, golden = case
    golden = {b for b in golden if b < blocks}
    rng = generator(seed, "kept")
    tokens = rng.integers(0, 5000, blocks * BLOCK).astype(np.uint16)
    mask, gist, upper = coarse_mask(rng, tokens, BLOCK, golden, room)
    raw = mask & ~gist
    per_block = raw.reshape(blocks, BLOCK).sum(1)
    assert set(per_block.tolist()) <= {0, BLOCK}
    assert all(per_block[b] == BLOCK for b in golden)
    rare = np.zeros(len(tokens), bool)
    rare[rarest_in_blocks(tokens, BLOCK)] = True
    assert not (gist & ~rare).any()
    assert not (upper & ~gist).any()
    # A group is either one entry, or every block of it is an entry of its own.
    for first in range(0, blocks, GROUP):
        entries = mask.reshape(blocks, BLOCK).any(1)[first : first + GROUP]
        part = slice(first * BLOCK, (first + GROUP) * BLOCK)
        assert entries.all() or int(mask[part].sum()) == 1
        single = not entries.all() or (len(entries) == 1 and upper[part].any())
        assert int(upper[part].sum()) == int(single)
    least = len(golden) * BLOCK + blocks
    assert int(mask.sum()) <= max(room, least)


def test_lookalikes_open_whole_or_in_part_within_the_room() -> None:
    spread = [(2 * i, 2 * i + 2) for i in range(12)]  # facts of two blocks each
    whole = part = none = 0
    for seed in range(300):
        opened = distractor_blocks(generator(seed, "beside"), spread, {0, 1}, 20, 9)
        assert len(opened | {0, 1}) <= 9
        assert opened <= set(range(20))
        inside = [len(opened & set(range(*span))) for span in spread[1:10]]
        whole += inside.count(2)
        part += inside.count(1)
        none += not opened - {0, 1}
    assert whole > part > 100
    assert 20 < none < 150
