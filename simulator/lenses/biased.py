"""A lens that finds everything interesting, the newest nodes most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens, ideal_scores

__all__ = ["Biased"]


@dataclass
class Biased(SimLens):
    """Ideal scores plus ``bias`` at the newest node, falling to a third of it at the oldest."""

    name: ClassVar[str] = "biased"
    bias: float = 0.6

    def score(self, view: LensView) -> np.ndarray:
        scores = ideal_scores(view)
        slope = np.linspace(self.bias / 3, self.bias, scores.size, dtype=np.float32)
        biased: np.ndarray = scores + slope
        return biased.clip(-1.0, 1.0)
