"""Turns of a conversation that end with questions about earlier turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.streams.base import Stream, Truth, truth

__all__ = ["Conversation"]


@dataclass
class Conversation(Stream):
    """A turn is ``turn`` blocks; each asks about one earlier turn, recent ones more often."""

    name: ClassVar[str] = "conversation"
    turn: int = 12
    asked: int = 3

    def _subject(self, turn: int) -> int:
        back = 1 + int(self.draw(turn)[0] ** 2 * turn)
        return max(0, turn - back)

    def targets(self, n_blocks: int) -> Truth:
        turn = n_blocks // self.turn
        first = self._subject(turn) * self.turn + int(self.draw(turn)[1] * (self.turn - self.asked))
        return truth(first + np.arange(self.asked), np.array([1.0, 0.75, 0.5]), n_blocks)

    def markers(self, n_blocks: int) -> tuple[str, ...]:
        if n_blocks % self.turn:
            return ()
        turn = n_blocks // self.turn
        return (f"turn {turn} asks about turn {self._subject(turn)}",)
