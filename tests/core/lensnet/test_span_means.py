"""Means over spans of a growing history."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.core.lensnet.span_means import RunningMeans


def direct(values: np.ndarray, starts: np.ndarray, widths: np.ndarray) -> np.ndarray:
    spans = [values[a : a + w] for a, w in zip(starts, widths, strict=True)]
    spans = [span[np.isfinite(span)] for span in spans]
    return np.array([span.mean() if len(span) else 0 for span in spans])


def test_means_follow_a_growing_history_past_every_buffer() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(3, 1, 6000).astype(np.float32)
    values[rng.random(6000) < 0.3] = np.nan
    values[64:96] = np.nan
    sums, owner = RunningMeans(), object()
    for known in (0, 1, 90, 1023, 1024, 1025, 5999, 6000):
        starts = np.array([0, 64, 1000, 5000])
        widths = np.array([32, 32, 1024, 1024])
        result = sums.means(owner, values[:known], starts, widths)
        np.testing.assert_allclose(
            result, direct(values[:known], starts, widths), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("change", ["owner", "shorter", "rewritten"])
def test_another_history_is_summed_anew(change: str) -> None:
    sums, owner = RunningMeans(), object()
    first = np.full(100, 2.0, np.float32)
    span = np.array([0]), np.array([40])
    sums.means(owner, first, *span)
    second = np.full(50 if change == "shorter" else 120, 5.0, np.float32)
    result = sums.means(object() if change == "owner" else owner, second, *span)
    assert result.tolist() == [5.0]
