"""A question that needs several facts at once, from places far apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.streams.base import EMPTY, Stream, Truth, truth

__all__ = ["MultiNeedle"]


@dataclass
class MultiNeedle(Stream):
    """``count`` needles over the whole past; each is in the answer for ``ask`` blocks."""

    name: ClassVar[str] = "multi_needle"
    period: int = 48
    ask: int = 20
    count: int = 4

    def targets(self, n_blocks: int) -> Truth:
        asked_at = n_blocks - n_blocks % self.period
        if n_blocks - asked_at >= self.ask or asked_at == 0:
            return EMPTY
        fractions = self.draw(n_blocks // self.period)[: self.count]
        return truth((fractions * asked_at).astype("int64"), 1.0, n_blocks)

    def markers(self, n_blocks: int) -> tuple[str, ...]:
        if n_blocks % self.period or n_blocks == 0:
            return ()
        return (f"question about blocks {self.targets(n_blocks).blocks.tolist()}",)
