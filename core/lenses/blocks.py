"""From one number per block to scores of frontier nodes."""

from __future__ import annotations

import numpy as np

from megacontext.core.focus.actions import F32
from megacontext.core.lenses.base import Observation

__all__ = ["log_distance", "match_strength", "pool_blocks", "recency_prior", "share_neighbours"]

BAR = 0.3
"""Strength of a block that just reaches the bar; above the default ``tau_expand`` of 0.2."""
STRONG = 0.2
"""Strength of a match that its neighbours share."""


def log_distance(observation: Observation) -> F32:
    """F32[n] in [0, 1]: log distance from a node's end to the cursor over that of the start."""
    size = observation.block_size
    distance = (observation.n_tokens - observation.stops) / size
    whole = np.log1p(max(observation.n_tokens, 1) / size)
    fraction: F32 = (np.log1p(distance) / whole).astype(np.float32)
    return fraction


def recency_prior(observation: Observation) -> F32:
    """F32[n] from 0.10 (newest) to -0.15 (oldest).

    Within the default thresholds on both sides: by itself it neither expands nor collapses, it
    only decides who pays when something else is wanted or room is needed: the oldest.
    """
    prior: F32 = np.float32(0.10) - np.float32(0.25) * log_distance(observation)
    return prior


def match_strength(blocks: F32, mark: float = 1.0) -> F32:
    """How much each block stands out, in [0, 1], calibrated on the history's own distribution.

    z is the robust deviation (x - median) / (1.4826 MAD). Strength is ``BAR`` at ``mark`` times
    the universal threshold sqrt(2 ln n), which the largest of n normal deviates rarely exceeds
    (Donoho and Johnstone, Biometrika 1994), and grows with the square of z: ordinary text
    moves the focus now and then, any number of clear matches pass together. From 0.5 on it bends
    towards 1, which it never reaches, so that strong matches keep their order.

    Args:
        blocks: F32[n], any scale, larger is a better match.
    """
    if len(blocks) < 2:
        return np.zeros(len(blocks), np.float32)
    center = np.median(blocks)
    scale = 1.4826 * np.median(np.abs(blocks - center))
    if scale <= 1e-6 * np.abs(blocks - center).max():  # most blocks are equal, as under BM25
        scale = float(blocks.std())
    if not scale > 0:
        return np.zeros(len(blocks), np.float32)
    z = (blocks - center) / scale
    threshold = mark * np.sqrt(2 * np.log(len(z)))
    square = BAR * np.square(np.maximum(z, 0) / threshold)
    match_score: F32 = np.where(square < 0.5, square, 1 - 0.25 / np.maximum(square, 0.5)).astype(
        np.float32
    )
    return match_score


def share_neighbours(match_score: F32, share: float = 0.9) -> F32:
    """Neighbours of a block at or above ``STRONG`` get ``share`` of its strength at least.

    A fact may straddle two blocks, and its other half need not match by itself. A weak match is
    not worth three blocks.
    """
    max_score = np.where(match_score >= STRONG, np.float32(share) * match_score, np.float32(0))
    shared = match_score.copy()
    shared[1:] = np.maximum(shared[1:], max_score[:-1])
    shared[:-1] = np.maximum(shared[:-1], max_score[1:])
    return shared


def pool_blocks(blocks: F32, observation: Observation) -> F32:
    """F32[n]: the maximum over the blocks that each frontier node covers; ``blocks`` F32[b]."""
    if len(observation.starts) == 0:
        return np.empty(0, np.float32)
    pooled: F32 = np.maximum.reduceat(blocks, observation.starts // observation.block_size)
    return pooled
