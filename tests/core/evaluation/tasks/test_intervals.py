"""Intervals on cases worked out by hand."""

import numpy as np
import pytest

from megacontext.core.evaluation.tasks.intervals import bootstrap, wilson


def test_wilson_agrees_with_published_values():
    # Newcombe, Statistics in Medicine 1998, table I: 81/263, 15/148, 0/20, 1/29.
    for right, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_nothing_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_bootstrap_covers_the_mean_and_repeats_by_seed():
    values = np.arange(40.0)

    def mean(pick):
        return float(values[pick].mean())

    interval = bootstrap(mean, 40, 1, "x")
    assert interval == bootstrap(mean, 40, 1, "x") != bootstrap(mean, 40, 2, "x")
    assert interval[0] < 19.5 < interval[1]
    # The normal approximation: 1.96 * sd / sqrt(n) = 3.58 on each side.
    assert interval[1] - interval[0] == pytest.approx(7.2, abs=1.0)


def test_bootstrap_needs_two_documents_and_a_value():
    assert bootstrap(lambda pick: 1.0, 1, 0, "x") is None
    assert bootstrap(lambda pick: float("nan"), 5, 0, "x") is None
