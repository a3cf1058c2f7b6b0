"""A lens that works against the focus: wrong on purpose, and changing its mind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens, ideal_scores

__all__ = ["Adversarial"]


@dataclass
class Adversarial(SimLens):
    """Hates what is wanted; on every node it demands the flip of what it demanded last time."""

    name: ClassVar[str] = "adversarial"

    def score(self, view: LensView) -> np.ndarray:
        sign = 1.0 if (view.step + view.round) % 2 == 0 else -1.0
        spin: np.ndarray = np.abs(self.noise(view, view.levels.size)) + 0.3
        raw = view.levels == 0
        scores = np.where(raw, -sign * spin, sign * spin)
        scores[ideal_scores(view) > 0] *= -1.0
        clipped: np.ndarray = scores.astype(np.float32)
        return clipped.clip(-1.0, 1.0)
