"""A lens whose arithmetic broke: NaN and infinities among its scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens, ideal_scores

__all__ = ["NotANumber"]


@dataclass
class NotANumber(SimLens):
    """A third of the scores are NaN, +inf, -inf or far outside [-1, 1]."""

    name: ClassVar[str] = "nan"
    honest: ClassVar[bool] = False

    def score(self, view: LensView) -> np.ndarray:
        scores = ideal_scores(view)
        noise = self.noise(view, scores.size)
        scores[noise > 1.0] = np.nan
        scores[noise < -1.2] = np.inf
        scores[(noise > 0.9) & (noise <= 1.0)] = -np.inf
        scores[(noise > 0.8) & (noise <= 0.9)] = 3.0e38
        return scores
