"""A control: the newest nodes matter most, whatever the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens

__all__ = ["Recency"]


@dataclass
class Recency(SimLens):
    """A line from ``oldest`` to ``newest`` over the history."""

    name: ClassVar[str] = "recency"
    oldest: float = -0.5
    newest: float = 0.5

    def score(self, view: LensView) -> np.ndarray:
        position = view.starts.astype(np.float32) / max(1, view.n_tokens)
        scores: np.ndarray = self.oldest + (self.newest - self.oldest) * position
        return scores
