"""Interest starts wide and shallow and narrows to one block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.streams.base import Stream, Truth, truth

__all__ = ["ZoomIn"]


@dataclass
class ZoomIn(Stream):
    """A span of ``widest`` blocks halves every ``stage`` blocks while its weight grows."""

    name: ClassVar[str] = "zoom_in"
    stage: int = 8
    widest: int = 8

    def stages(self) -> int:
        return self.widest.bit_length()

    def width(self, stage: int) -> int:
        return self.widest >> stage

    def targets(self, n_blocks: int) -> Truth:
        period = self.stage * self.stages()
        asked_at = n_blocks - n_blocks % period
        center = int(self.draw(n_blocks // period)[0] * max(1, asked_at))
        width = self.width(n_blocks % period // self.stage)
        blocks = center - width // 2 + np.arange(width)
        return truth(blocks, 1.0 / width, n_blocks)
