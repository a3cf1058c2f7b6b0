"""Intervals: Wilson for shares, bootstrap over documents for means and ratios."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from megacontext.core.rng import generator

__all__ = ["Interval", "bootstrap", "wilson"]

Interval = tuple[float, float]
_Z95 = 1.959963984540054


def wilson(right: int, count: int) -> Interval:
    """The 95 % score interval of a share (Wilson, JASA 1927); (0, 1) where nothing was counted."""
    if count == 0:
        return 0.0, 1.0
    fraction, z2 = right / count, _Z95**2
    center = fraction + z2 / (2 * count)
    half_width = _Z95 * sqrt(fraction * (1 - fraction) / count + z2 / (4 * count**2))
    low, high = ((center + side * half_width) / (1 + z2 / count) for side in (-1, 1))
    return max(0.0, low), min(1.0, high)


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    documents: int,
    seed: int,
    purpose: str,
    draws: int = 1000,
) -> Interval | None:
    """The 95 % percentile interval over documents (Efron, 1979).

    Args:
        statistic: of the document numbers of one draw, I64[documents]; NaN counts as no value.
        documents: how many there are; None is returned for fewer than two.
    """
    if documents < 2:
        return None
    rng = generator(seed, f"eval.bootstrap.{purpose}")
    choices = rng.integers(documents, size=(draws, documents))
    values = np.array([statistic(choice) for choice in choices])
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
