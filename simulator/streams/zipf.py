"""A few favourite blocks matter again and again, by Zipf's law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.streams.base import Stream, Truth, truth

__all__ = ["Zipf"]


@dataclass
class Zipf(Stream):
    """Each epoch draws ``count`` ranks with P(r) ~ 1/r; a rank always means the same block."""

    name: ClassVar[str] = "zipf"
    epoch: int = 8
    count: int = 3
    ranks: int = 64

    def targets(self, n_blocks: int) -> Truth:
        mass = np.cumsum(1.0 / np.arange(1, self.ranks + 1))
        ranks = np.searchsorted(mass / mass[-1], self.draw(n_blocks // self.epoch)[: self.count])
        # A multiplicative hash spreads the ranks over the first `ranks` blocks.
        blocks = (ranks * 37 + int(self.draw(0)[15] * self.ranks)) % self.ranks
        return truth(blocks, 1.0, n_blocks)
