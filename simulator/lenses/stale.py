"""A lens that knows what mattered a while ago."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens, ideal_scores
from megacontext.simulator.streams.base import EMPTY, Truth

__all__ = ["Stale"]


@dataclass
class Stale(SimLens):
    """Ideal scores for the truth of ``delay`` refocuses ago, on today's frontier."""

    name: ClassVar[str] = "stale"
    delay: int = 6
    _past: deque[tuple[int, Truth]] = field(default_factory=deque, init=False, repr=False)

    def score(self, view: LensView) -> np.ndarray:
        if not self._past or self._past[-1][0] != view.step:
            self._past.append((view.step, view.truth))
        while len(self._past) > self.delay + 1:
            self._past.popleft()
        old = self._past[0][1] if len(self._past) > self.delay else EMPTY
        return ideal_scores(view, old)
