"""The allocator's moves over training states, and what far states aim at."""

from __future__ import annotations

import numpy as np
import torch

from megacontext.core.rng import generator
from megacontext.core.training.lensnet_states import (
    draw_levels,
    frontier,
    gold_blocks,
    window_entries,
)
from megacontext.core.training.lensnet_targets import attention_target, recency_target
from megacontext.core.training.lensnet_walk import cold_levels, walk

K = 32


def covered(levels: np.ndarray, index: np.ndarray) -> int:
    starts = index * K ** np.maximum(levels, 1)
    stops = starts + K ** np.maximum(levels, 1)
    assert starts[0] == 0
    assert np.array_equal(starts[1:], stops[:-1])
    return int(stops[-1])


def seeing(gold: set[int]) -> object:
    """Scores that want every gist over a gold block and nothing else."""

    def score(levels: np.ndarray, index: np.ndarray) -> np.ndarray:
        width = K ** np.maximum(levels - 1, 0)
        first = index * width
        wanted = np.zeros(levels.shape, bool)
        for block in gold:
            wanted |= (first <= block) & (block < first + width)
        return np.where(wanted, 0.9, -0.1).astype(np.float32)

    return score


def test_a_session_start_reaches_every_gold_block_in_one_refocus() -> None:
    n_tokens = 2080 * K + 17
    start = cold_levels(n_tokens, 1024, K)
    assert start.max() == 3
    gold = {5, 6, 700, 1301, 1302, 1900}
    levels, index = walk(seeing(gold), [start], [n_tokens], [1024], K, 6)
    assert covered(levels[0], index[0]) == n_tokens // K * K
    assert gold <= set(index[0, levels[0] == 0].tolist())
    assert int(np.where(levels[0] == 0, K, 1).sum()) + 17 + K <= 1024


def test_states_of_a_batch_move_on_their_own() -> None:
    sizes = [(300, 512), (1100, 1024), (1500, 2048)]
    starts = []
    for number, (blocks, w_max) in enumerate(sizes):
        if number == 1:
            level = draw_levels(generator(0, "test-walk"), blocks, K, w_max, near=False)
            starts.append(frontier(level, K)[0])
        else:
            starts.append(cold_levels(blocks * K, w_max, K))
    tokens = [blocks * K for blocks, _ in sizes]
    budgets = [w_max for _, w_max in sizes]
    levels, index = walk(seeing({40}), starts, tokens, budgets, K, 5)
    for row, count in enumerate(tokens):
        real = levels[row] >= 0
        assert covered(levels[row][real], index[row][real]) == count
        raw = index[row][levels[row] == 0].tolist()
        assert 40 in raw


def test_every_block_that_a_fact_stands_in_is_gold() -> None:
    # Line ends at both sides are no part of the fact.
    assert gold_blocks([(K - 1, 2 * K + 2)], 4, K).tolist() == [0, 1, 1, 0]
    assert gold_blocks([(K - 1, 2 * K + 1)], 4, K).tolist() == [0, 1, 0, 0]
    assert gold_blocks([(-1, -1)], 4, K).sum() == 0


def test_what_nobody_asks_for_stays_within_the_thresholds() -> None:
    levels = torch.tensor([[3, 2, 1, 0, -1]])
    index = torch.tensor([[0, 32, 1056, 1057, 0]])
    target = recency_target(levels, index, torch.tensor([1058 * K]), K)[0, :4]
    assert (target.diff() > 0).all()
    assert float(target.min()) >= -0.15
    assert float(target.max()) < 0.101


def test_demand_near_the_mark_moves_nothing() -> None:
    levels, index = torch.zeros((1, 4), dtype=torch.int64), torch.arange(4)[None]
    levels[0, :2] = 1
    demand = torch.tensor([[0.4, 0.05, 0.11, 0.09]])
    wish = attention_target(demand, levels, index, levels >= 0, K)[0]
    assert float(wish[0]) > 0.2  # four times what the last raw place is worth
    assert float(wish[3]) == 0
    assert -0.1 < float(wish[1]) < 0


def test_drawn_frontiers_tile_the_history_under_the_budget() -> None:
    for case in range(30):
        rng = generator(case, "test-levels")
        blocks, w_max = int(rng.integers(70, 300)), int(rng.choice([512, 1024]))
        level = draw_levels(rng, blocks, K, w_max, near=bool(case % 2))
        levels, index = frontier(level, K)
        width = np.where(levels == 2, K, 1)
        starts = index * width
        assert starts[0] == 0
        assert np.array_equal(starts[1:], (starts + width)[:-1])
        assert starts[-1] + width[-1] == blocks
        assert (level[-2:] == 0).all()
        rows = window_entries(level, K, 5)
        cost = int(np.where(levels == 0, K, 1).sum())
        assert len(rows) == cost + 5
        assert cost <= w_max
