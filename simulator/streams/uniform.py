"""Any block may matter: each epoch wants a few blocks drawn evenly from the whole history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.streams.base import Stream, Truth, truth

__all__ = ["Uniform"]


@dataclass
class Uniform(Stream):
    """``count`` blocks for ``epoch`` blocks at a time, no pattern at all."""

    name: ClassVar[str] = "uniform"
    epoch: int = 16
    count: int = 3

    def targets(self, n_blocks: int) -> Truth:
        start = n_blocks - n_blocks % self.epoch
        draws = self.draw(n_blocks // self.epoch)[: self.count]
        return truth((draws * max(1, start)).astype("int64"), 1.0, n_blocks)
