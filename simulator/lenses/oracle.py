"""The lens that knows the ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens, ideal_scores

__all__ = ["Oracle"]


@dataclass
class Oracle(SimLens):
    """Ideal scores, at once and without error."""

    name: ClassVar[str] = "oracle"

    def score(self, view: LensView) -> np.ndarray:
        return ideal_scores(view)
