"""The truth with Gaussian noise: a lens that is roughly trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens, ideal_scores

__all__ = ["Noisy"]


@dataclass
class Noisy(SimLens):
    """Ideal scores plus noise of standard deviation ``sigma``, clipped to [-1, 1]."""

    name: ClassVar[str] = "noisy"
    sigma: float = 0.2

    def score(self, view: LensView) -> np.ndarray:
        scores = ideal_scores(view)
        noisy: np.ndarray = scores + self.sigma * self.noise(view, scores.size)
        return noisy.clip(-1.0, 1.0)
