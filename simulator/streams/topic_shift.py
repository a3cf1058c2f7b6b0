"""The talk is about one old chapter, then jumps to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.streams.base import Stream, Truth, truth

__all__ = ["TopicShift"]


@dataclass
class TopicShift(Stream):
    """Every ``epoch`` blocks another run of ``width`` blocks of the past becomes the topic."""

    name: ClassVar[str] = "topic_shift"
    epoch: int = 32
    width: int = 3

    def targets(self, n_blocks: int) -> Truth:
        start = n_blocks - n_blocks % self.epoch
        first = int(self.draw(n_blocks // self.epoch)[0] * max(1, start))
        return truth(first + np.arange(self.width), 1.0, n_blocks)

    def markers(self, n_blocks: int) -> tuple[str, ...]:
        return () if n_blocks % self.epoch else ("topic shift",)
