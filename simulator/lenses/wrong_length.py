"""A lens that answers for another number of nodes than it was asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens, ideal_scores

__all__ = ["WrongLength"]


@dataclass
class WrongLength(SimLens):
    """In turn: right, one too many, one too few, none at all."""

    name: ClassVar[str] = "wrong_length"
    honest: ClassVar[bool] = False

    def score(self, view: LensView) -> np.ndarray:
        scores = ideal_scores(view)
        turn = (view.step + view.round) % 4
        if turn == 1:
            return np.append(scores, np.float32(0.9))
        if turn == 2:
            return scores[:-1]
        return scores[:0] if turn == 3 else scores
