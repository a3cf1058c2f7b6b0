"""A control: scores without any meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens

__all__ = ["Random"]


@dataclass
class Random(SimLens):
    """Normal scores of standard deviation ``sigma``, new ones every round."""

    name: ClassVar[str] = "random"
    sigma: float = 0.4

    def score(self, view: LensView) -> np.ndarray:
        scores: np.ndarray = self.sigma * self.noise(view, view.levels.size)
        return scores.clip(-1.0, 1.0)
