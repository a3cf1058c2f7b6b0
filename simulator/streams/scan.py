"""A reader walks through the whole history from the oldest block to the newest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.streams.base import Stream, Truth, truth

__all__ = ["Scan"]


@dataclass
class Scan(Stream):
    """A window of ``width`` blocks moves on by one block every ``dwell`` blocks."""

    name: ClassVar[str] = "scan"
    width: int = 2
    dwell: int = 4

    def targets(self, n_blocks: int) -> Truth:
        first = n_blocks // self.dwell
        return truth(first + np.arange(self.width) - self.width, 1.0, n_blocks)
