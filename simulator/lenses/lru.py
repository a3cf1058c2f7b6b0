"""A control: least recently used, as an operating system pages memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses.base import LensView, SimLens, ideal_scores

__all__ = ["Lru"]


@dataclass
class Lru(SimLens):
    """What is wanted now is fetched; the rest fades with the refocuses since its last use."""

    name: ClassVar[str] = "lru"
    fade: float = 0.02
    _used: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def score(self, view: LensView) -> np.ndarray:
        for block in view.truth.blocks.tolist():
            self._used[block] = view.step
        scores = np.full(view.levels.size, -1.0, np.float32)
        if self._used and scores.size:
            blocks = np.fromiter(self._used.keys(), np.int64, len(self._used))
            steps = np.fromiter(self._used.values(), np.int64, len(self._used))
            known = blocks * view.block_size < view.n_tokens - view.tail_tokens
            entries = np.searchsorted(view.starts, blocks[known] * view.block_size, "right") - 1
            recent = 0.15 - self.fade * (view.step - steps[known])
            np.maximum.at(scores, entries, recent.astype(np.float32))
        scores.clip(-1.0, 1.0, out=scores)
        ideal = ideal_scores(view)
        return np.where(ideal > 0, ideal, scores)
