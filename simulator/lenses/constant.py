"""The same score for every node: nothing to choose by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens

__all__ = ["Constant"]


@dataclass
class Constant(SimLens):
    """``value`` everywhere; above the thresholds by default, so ties must be broken well."""

    name: ClassVar[str] = "constant"
    value: float = 0.5

    def score(self, view: LensView) -> np.ndarray:
        return np.full(view.levels.size, self.value, np.float32)
