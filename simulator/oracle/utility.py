"""What a focus is worth, given the ground truth.

A wanted block is worth its weight when it is raw, and a quarter as much for every level that
stands above it. The unit is therefore "raw blocks that matter".
"""

from __future__ import annotations

import numpy as np

from megacontext.simulator.streams.base import Truth

__all__ = ["DECAY", "detail", "focus_utility", "levels_of"]

DECAY = 0.25
"""Worth of a gist relative to the level below it."""


def detail(level: int) -> float:
    """Worth of a wanted block of weight 1 that is shown at ``level``."""
    return float(DECAY**level)


def levels_of(levels: np.ndarray, starts: np.ndarray, truth: Truth, block_size: int) -> np.ndarray:
    """I8[m]: the level at which each wanted block is shown now."""
    entries = np.searchsorted(starts, truth.blocks * block_size, "right") - 1
    shown: np.ndarray = levels[entries]
    return shown


def focus_utility(levels: np.ndarray, starts: np.ndarray, truth: Truth, block_size: int) -> float:
    """Sum over wanted blocks of weight times detail."""
    if truth.blocks.size == 0:
        return 0.0
    shown = levels_of(levels, starts, truth, block_size).astype(np.float64)
    return float(np.dot(truth.weights.astype(np.float64), DECAY**shown))
