"""A control: no opinion at all, so that only forced collapses ever change the focus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens

__all__ = ["Static"]


@dataclass
class Static(SimLens):
    """Zero everywhere."""

    name: ClassVar[str] = "static"

    def score(self, view: LensView) -> np.ndarray:
        return np.zeros(view.levels.size, np.float32)
