"""Uniform noise: what any informed lens must beat."""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.core.focus.actions import F32
from megacontext.core.lenses.base import LensNeeds, Observation
from megacontext.core.rng import generator

__all__ = ["Random"]


@dataclass(frozen=True)
class Random:
    """Draws every score from [-1, 1), anew each round, by (seed, step, round)."""

    name: str = "random"
    requires = LensNeeds()

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`."""
        draw = generator(observation.seed, "lens.random", observation.step, observation.round)
        scores: F32 = draw.uniform(-1, 1, len(observation.levels)).astype("float32")
        return scores
