"""Spearman's rho against its definition: Pearson's of average ranks."""

import numpy as np
import pytest
import torch

from megacontext.core.training.lensnet.evaluate import _rank_correlation


def average_ranks(values):
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


@pytest.mark.parametrize("n_distinct", [2, 5, 200])
def test_ties_share_their_mean_rank(n_distinct):
    rng = np.random.default_rng(n_distinct)
    a = rng.integers(0, n_distinct, 200).astype(np.float32)
    b = (a + rng.normal(0, n_distinct / 3, 200)).astype(np.float32)
    expected = np.corrcoef(average_ranks(a), average_ranks(b))[0, 1]
    assert _rank_correlation(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, abs=1e-9)


def test_a_score_of_position_alone_says_nothing_of_sparse_demand():
    rng = np.random.default_rng(0)
    result = []
    for _ in range(100):
        demand = np.zeros(200, np.float32)
        demand[rng.choice(200, 6, replace=False)] = rng.random(6)
        result.append(_rank_correlation(torch.arange(200.0), torch.tensor(demand)))
    assert abs(np.mean(result)) < 0.05


def test_equal_values_correlate_with_nothing():
    assert _rank_correlation(torch.zeros(9), torch.arange(9.0)) == 0
