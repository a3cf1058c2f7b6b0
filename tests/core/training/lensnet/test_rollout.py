"""The allocator's moves over training states, and what far states aim at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from megacontext.core.focus import Limits
from megacontext.core.rng import generator
from megacontext.core.training.lensnet.dataset import (
    draw_levels,
    frontier,
    gold_blocks,
    window_entries,
)
from megacontext.core.training.lensnet.evaluate import _demand_under_best
from megacontext.core.training.lensnet.losses import (
    SLOT_VALUE,
    blocks_that_fit,
    prob_from_score,
    prob_of_need,
    ranking_loss,
    retrieval_loss,
    score_from_prob,
    text_loss,
    utility_loss,
)
from megacontext.core.training.lensnet.rollout import cold_levels, rollout

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
        expected = np.zeros(levels.shape, bool)
        for block in gold:
            expected |= (first <= block) & (block < first + width)
        return np.where(expected, 0.9, -0.1).astype(np.float32)

    return score


def test_a_session_start_reaches_every_gold_block_in_one_refocus() -> None:
    n_tokens = 2080 * K + 17
    start = cold_levels(n_tokens, 1024, K)
    assert start.max() == 3
    gold = {5, 6, 700, 1301, 1302, 1900}
    levels, index = rollout(seeing(gold), [start], [n_tokens], [1024], K, 6)
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
    levels, index = rollout(seeing({40}), starts, tokens, budgets, K, 5)
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


def descended(loss: Callable[[torch.Tensor], torch.Tensor], entries: int) -> torch.Tensor:
    """The scores [entries] that a loss over logits [1, entries] comes to rest at."""
    logits = torch.zeros((1, entries), requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=0.1)
    for _ in range(1500):
        optimizer.zero_grad()
        loss(logits).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return torch.tanh(logits.detach())[0]


def far_scores(asks: bool, start: list[float], gold_at: int = 2) -> list[float]:
    """Scores at rest: far gist, near gist, gold gist, two raw blocks, best match."""
    levels = torch.tensor([[1, 1, 1, 0, 0, 1]])
    index = torch.tensor([[0, 95, 96, 98, 99, 97]])
    place = torch.arange(6)[None]
    gold = (place == gold_at) & asks
    offset = torch.atanh(torch.tensor([start]))

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return retrieval_loss(
            logits + offset,
            gold,
            place == 5,
            levels,
            index,
            levels >= 0,
            torch.tensor([100 * K]),
            torch.tensor([asks]),
            64 * K,
            K,
            2.0,
        )

    moved = torch.atanh(descended(loss, 6)) + offset[0]
    result: list[float] = torch.tanh(moved).tolist()
    return result


def test_at_a_question_gold_opens_and_nothing_frees_room_that_nobody_wants() -> None:
    far, near, gold, dull, _, best = far_scores(True, [0.6, -0.6, 0.0, -0.9, -0.05, 0.0])
    assert gold > 0.9
    assert best == pytest.approx(0.3, abs=0.02)
    assert far == pytest.approx(-SLOT_VALUE, abs=0.02)
    assert near == pytest.approx(-SLOT_VALUE, abs=0.02)
    assert dull == pytest.approx(-SLOT_VALUE, abs=0.02)  # cheapest to exchange, but no more
    *_, kept, best = far_scores(True, [0.0, 0.0, 0.0, 0.0, -0.05, 0.5])
    assert kept == pytest.approx(-0.05, abs=0.01)
    assert best == pytest.approx(0.5, abs=0.01)
    *_, held, _ = far_scores(True, [0.0, 0.0, 0.0, 0.0, -0.5, 0.0], gold_at=4)
    assert held == pytest.approx(0, abs=0.01)


def test_a_gist_opens_where_its_chance_outweighs_blocks_opened_in_vain() -> None:
    levels, index = torch.ones((20, 1), dtype=torch.int64), torch.zeros((20, 1), dtype=torch.int64)
    asks = torch.ones(20, dtype=torch.bool)

    def score(cases: int, miss: float) -> float:
        gold = torch.arange(20)[:, None] < cases  # gold in so many of twenty like cases

        def loss(logits: torch.Tensor) -> torch.Tensor:
            rows = logits.expand(20, 1)
            tokens = torch.full((20,), K)
            none = torch.zeros_like(gold)
            return retrieval_loss(
                rows, gold, none, levels, index, levels > 0, tokens, asks, K, K, miss
            )

        return float(descended(loss, 1))

    assert score(1, 5.0) < 0.2 < score(2, 5.0)
    assert 0.2 < score(1, 15.0) < score(2, 15.0)


def test_in_far_plain_text_only_what_near_states_never_see_is_held_down() -> None:
    far, near, _, dull, raw, best = far_scores(False, [0.6, 0.6, 0.3, -0.9, -0.05, 0.0])
    assert far == pytest.approx(-SLOT_VALUE, abs=0.02)
    assert near == pytest.approx(0.6, abs=0.01)
    assert dull == pytest.approx(-SLOT_VALUE, abs=0.02)
    assert raw == pytest.approx(-0.05, abs=0.01)
    assert best == pytest.approx(0, abs=0.01)


def test_scores_of_plain_text_are_what_the_chance_of_being_needed_is_worth() -> None:
    levels, index = torch.zeros((1, 4), dtype=torch.int64), torch.arange(4)[None]
    levels[0, :2] = 1
    demand = torch.tensor([[0.4, 0.02, 0.11, 0.09]])
    chance = prob_of_need(demand, levels, index, K, torch.tensor([2]))[0]
    assert float(chance[0]) > 0.9  # four times what the first without a place is worth
    assert float(chance[1]) < 0.1
    assert float(chance[3]) == pytest.approx(0.5, abs=1e-6)  # the mark itself
    held = prob_of_need(demand, levels, index, K, torch.tensor([2]), hold=0.5)[0]
    assert (held[2:] > chance[2:]).all()
    assert (held[:2] < chance[:2]).all()
    # What is wanted in seven of ten futures, as a gist and as a raw block.
    futures = torch.tensor([[1.0] * 7 + [0.0] * 3]).T.expand(10, 2)
    kinds = torch.tensor([[1, 0]]).expand(10, 2)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return text_loss(logits.expand(10, 2), futures, kinds, torch.ones((10, 2)))

    gist, raw = descended(loss, 2).tolist()
    assert gist == pytest.approx(0.7 - 0.3 * SLOT_VALUE, abs=0.01)
    assert raw == pytest.approx(-0.3 * SLOT_VALUE, abs=0.01)


def test_gists_are_ranked_by_how_much_they_are_wanted() -> None:
    coarse = torch.tensor([[True, True, True, False]] * 2)
    expected = torch.tensor([[0.6, 0.3, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])  # nothing, in the second

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return ranking_loss(logits.expand(2, 4), expected, coarse)

    first, second, never, raw = torch.atanh(descended(loss, 4)).tolist()
    assert first - second == pytest.approx(np.log(2) / 3, abs=0.01)
    assert second > never
    assert raw == 0
    gold = expected[:1] > 0
    both = ranking_loss(torch.zeros(1, 4), gold, coarse[:1])
    assert float(both) == pytest.approx(np.log(3))
    assert float(ranking_loss(torch.zeros(1, 4), expected[1:], coarse[:1])) == 0


def test_what_lies_under_the_best_gists_is_their_share_of_the_demand() -> None:
    values = torch.tensor([0.9, 0.1, 0.8, 0.7, 0.6, 0.5, 1.0])
    demand = torch.tensor([0.1, 0.3, 0.1, 0.0, 0.1, 0.2, 0.9])
    gists = torch.tensor([True] * 6 + [False])
    assert _demand_under_best(values, demand, gists) == pytest.approx(0.3 / 0.8)
    assert _demand_under_best(values[:2], demand[:2], gists[:2]) == 1


def test_nothing_is_worth_less_than_the_room_that_it_takes() -> None:
    limits = Limits()
    levels = torch.tensor([0, 1, 2])
    assert -limits.tau_collapse < float(score_from_prob(torch.zeros(3), levels).min())
    assert score_from_prob(torch.ones(3), levels).tolist() == [0, 1, 1]
    chances = torch.tensor([0.3, 0.3, 0.9])
    assert prob_from_score(score_from_prob(chances, levels), levels).tolist() == pytest.approx(
        [0.3, 0.3, 0.9]
    )


def test_a_larger_budget_has_room_for_more_raw_blocks() -> None:
    fit = blocks_that_fit(torch.tensor([512, 1024, 64]), 64, K)
    assert fit.tolist() == pytest.approx([416 / 31, 928 / 31, 2])
    cost = float(fit[1]) * K + 64 - float(fit[1]) + K
    assert cost == pytest.approx(1024)


def test_candidates_are_ranked_by_what_they_saved() -> None:
    saved = torch.tensor([[0.05, -0.03, 0.0, 0.3]])
    gists = torch.ones((1, 4), dtype=torch.int64)
    scores = descended(lambda logits: utility_loss(logits, saved, gists, 0.02), 4)
    assert scores.argsort().tolist() == [1, 2, 0, 3]
    even = torch.zeros((1, 4))
    assert float(utility_loss(torch.randn((1, 4)), even, gists, 0.02)) == 0
    # A raw block and a gist are not measured by the same rule.
    mixed = torch.tensor([[0, 1, 0, 1]])
    apart = descended(lambda logits: utility_loss(logits, saved[:, [0, 0, 1, 2]], mixed, 0.02), 4)
    assert float(apart[0]) == pytest.approx(-float(apart[2]), abs=1e-3)
    assert float(apart[1]) == pytest.approx(-float(apart[3]), abs=1e-3)
    assert float(apart[0]) < float(apart[1])


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
