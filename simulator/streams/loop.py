"""A loop over one block more than fits: the pattern that defeats least-recently-used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.streams.base import Stream, Truth, truth

__all__ = ["Loop"]


@dataclass
class Loop(Stream):
    """Blocks 0..budget take turns, ``dwell`` blocks of time each."""

    name: ClassVar[str] = "loop"
    dwell: int = 4

    def targets(self, n_blocks: int) -> Truth:
        block = n_blocks // self.dwell % (self.raw_blocks + 1)
        return truth([block], 1.0, n_blocks)
