"""Whatever the allocator just made coarser is what matters next."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from megacontext.core.geometry import span
from megacontext.simulator.streams.base import Stream, Truth, truth

__all__ = ["AntiPolicy"]


@dataclass
class AntiPolicy(Stream):
    """Wants the first block of each of the last ``memory`` gists that a collapse made.

    The one stream that is no function of its seed alone: it reacts through :meth:`observe`.
    """

    name: ClassVar[str] = "anti_policy"
    memory: int = 3
    _collapsed: deque[int] = field(default_factory=deque, init=False, repr=False)

    def observe(self, collapsed: list[tuple[int, int]]) -> None:
        size = self.spec.block_size
        self._collapsed.extend(span(level, index, size)[0] // size for level, index in collapsed)
        while len(self._collapsed) > self.memory:
            self._collapsed.popleft()

    def targets(self, n_blocks: int) -> Truth:
        return truth(np.array(self._collapsed, np.int64), 1.0, n_blocks)
