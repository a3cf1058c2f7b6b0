"""A lens on another device: its scores are right, but for an earlier frontier."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens, ideal_scores

__all__ = ["Delayed"]


@dataclass
class Delayed(SimLens):
    """Ideal scores of ``delay`` rounds ago, handed to whatever nodes lie there now."""

    name: ClassVar[str] = "delayed"
    delay: int = 2
    _late: deque[tuple[np.ndarray, np.ndarray]] = field(
        default_factory=deque, init=False, repr=False
    )

    def score(self, view: LensView) -> np.ndarray:
        self._late.append((view.starts.copy(), ideal_scores(view)))
        while len(self._late) > self.delay + 1:
            self._late.popleft()
        starts, scores = self._late[0]
        if starts.size == 0 or view.starts.size == 0:
            return np.zeros(view.starts.size, np.float32)
        entries = np.searchsorted(starts, view.starts, "right") - 1
        late: np.ndarray = scores[np.maximum(entries, 0)]
        return late
