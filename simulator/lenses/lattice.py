"""Few values, most of them exactly at a threshold: ties everywhere, and nothing to round away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens

__all__ = ["Lattice"]

_VALUES = np.arange(-6, 10, dtype=np.float32) / 16


@dataclass
class Lattice(SimLens):
    """A node's value stays for a few refocuses, then moves by a sixteenth."""

    name: ClassVar[str] = "lattice"

    def score(self, view: LensView) -> np.ndarray:
        node = view.index.astype(np.int64) * 7 + view.levels.astype(np.int64) * 3
        phase = (node * 5 + (view.step + node) // 2 + self.seed % 11) % (2 * len(_VALUES))
        scores: np.ndarray = _VALUES[np.minimum(phase, 2 * len(_VALUES) - 1 - phase)]
        return scores
