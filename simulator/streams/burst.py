"""Long quiet, then many blocks matter at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.streams.base import EMPTY, Stream, Truth, truth

__all__ = ["Burst"]


@dataclass
class Burst(Stream):
    """Every ``period`` blocks, ``count`` blocks matter for ``width`` blocks of time."""

    name: ClassVar[str] = "burst"
    period: int = 40
    width: int = 10
    count: int = 8

    def targets(self, n_blocks: int) -> Truth:
        begun = n_blocks - n_blocks % self.period
        if n_blocks - begun >= self.width:
            return EMPTY
        fractions = self.draw(n_blocks // self.period)[: self.count]
        return truth((fractions * max(1, begun)).astype("int64"), 1.0, n_blocks)
