"""One fact is planted and asked for much later: the classic needle in a haystack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.streams.base import EMPTY, Stream, Truth, truth

__all__ = ["Needle"]


@dataclass
class Needle(Stream):
    """Every ``period`` blocks a needle is planted; its question comes half a period later and
    lasts for ``ask`` blocks."""

    name: ClassVar[str] = "needle"
    period: int = 48
    ask: int = 16

    def _needle(self, n_blocks: int) -> int:
        cycle = n_blocks // self.period
        return cycle * self.period + int(self.draw(cycle)[0] * (self.period // 3))

    def targets(self, n_blocks: int) -> Truth:
        since = n_blocks % self.period - self.period // 2
        if not 0 <= since < self.ask:
            return EMPTY
        return truth([self._needle(n_blocks)], 1.0, n_blocks)

    def markers(self, n_blocks: int) -> tuple[str, ...]:
        notes = []
        if n_blocks - 1 == self._needle(n_blocks - 1):
            notes.append(f"needle planted in block {n_blocks - 1}")
        if n_blocks % self.period == self.period // 2:
            notes.append(f"question about block {self._needle(n_blocks)}")
        return tuple(notes)
