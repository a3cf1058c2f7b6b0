"""What a synthetic lens sees and says: scores from the ground truth, without any model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np

from megacontext.core.rng import generator
from megacontext.simulator.streams.base import Truth

__all__ = ["LensView", "SimLens", "ideal_scores"]

BACKGROUND = -0.1
"""The ideal score of a node that nobody wants: coarser where room is needed, not otherwise."""

_NOISE = 1 << 15


@dataclass(slots=True)
class LensView:
    """One round as a lens sees it.

    Args:
        levels, starts: I8[n], I64[n]: the frontier, oldest first; starts in tokens.
        n_tokens: the length of the history.
        truth: the blocks that matter now.
        step, round: when; with the seed they fix every random score.
    """

    levels: np.ndarray
    index: np.ndarray
    starts: np.ndarray
    n_tokens: int
    tail_tokens: int
    block_size: int
    truth: Truth
    step: int
    round: int


def ideal_scores(view: LensView, truth: Truth | None = None) -> np.ndarray:
    """F32[n]: 0.5 + weight / 2 on nodes that hold wanted blocks, slightly negative elsewhere."""
    truth = view.truth if truth is None else truth
    scores = np.full(view.levels.size, BACKGROUND, np.float32)
    if truth.blocks.size and scores.size:
        entries = np.searchsorted(view.starts, truth.blocks * view.block_size, "right") - 1
        for at, weight in zip(entries.tolist(), truth.weights.tolist(), strict=True):
            scores[at] = max(float(scores[at]), 0.5 + weight / 2)
    return scores


@dataclass
class SimLens:
    """Base of all synthetic lenses."""

    seed: int
    name: ClassVar[str] = ""
    honest: ClassVar[bool] = True
    """Whether the scores are well formed: right length, finite, in [-1, 1]."""

    def score(self, view: LensView) -> np.ndarray:
        """F32[n] in [-1, 1] from an honest lens; anything from the others."""
        raise NotImplementedError

    @cached_property
    def _table(self) -> np.ndarray:
        return _normal(self.seed, self.name)

    def noise(self, view: LensView, length: int) -> np.ndarray:
        """F32[length] of standard normal numbers, fixed by seed, step and round."""
        at = (view.step * 7919 + view.round * 104729) % (_NOISE // 2)
        if length > _NOISE // 2:
            return np.resize(self._table, length)
        row: np.ndarray = self._table[at : at + length]
        return row


@lru_cache(maxsize=16)
def _normal(seed: int, name: str) -> np.ndarray:
    """F32[_NOISE]; many short worlds have one seed, and drawing it costs more than such a world."""
    table = generator(seed, f"lens.{name}").standard_normal(_NOISE).astype(np.float32)
    table.flags.writeable = False
    return table
