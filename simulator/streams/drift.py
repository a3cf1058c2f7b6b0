"""Interest wanders: a soft spot that does a random walk over the history."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from megacontext.simulator.streams.base import Stream, Truth, truth

__all__ = ["Drift"]


@dataclass
class Drift(Stream):
    """The centre moves by at most one block every ``dwell`` blocks; its neighbours count less."""

    name: ClassVar[str] = "drift"
    dwell: int = 4

    @cached_property
    def _moves(self) -> np.ndarray:
        return np.cumsum(np.floor(self._table[:, 0] * 3).astype(np.int64) - 1)

    def targets(self, n_blocks: int) -> Truth:
        move = int(self._moves[n_blocks // self.dwell % len(self._moves)])
        center = abs(n_blocks // 3 + move)
        return truth(center + np.arange(-1, 2), np.array([0.5, 1.0, 0.5]), n_blocks)
