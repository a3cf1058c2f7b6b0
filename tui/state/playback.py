"""Where the viewer stands in time: a pure state machine, no UI, no clock of its own.

Every method returns a new :class:`Playback`. Row numbers are 0-based; with ``count == 0`` the
position is 0 and nothing moves. The caller measures time and hands over the elapsed seconds, so
the tests inject any clock they like.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["BASE_ROWS_PER_S", "SPEEDS", "Playback"]

SPEEDS: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
BASE_ROWS_PER_S = 4.0
"""Rows per second at speed 1."""


@dataclass(frozen=True)
class Playback:
    """One moment of playback.

    Attributes:
        count: rows known so far; never shrinks.
        position: the row on screen, ``0 <= position < max(count, 1)``.
        playing: rows advance with time. A growing source at its end keeps ``playing`` and waits.
        following: the position sticks to the newest row.
        speed: index into :data:`SPEEDS`.
        carry: fraction of a row left over from the last tick, in [0, 1).
    """

    count: int = 0
    position: int = 0
    playing: bool = False
    following: bool = False
    speed: int = SPEEDS.index(1.0)
    carry: float = 0.0

    @property
    def last(self) -> int:
        """The newest row's number (0 when there is none)."""
        return max(self.count - 1, 0)

    @property
    def factor(self) -> float:
        """The speed as a factor of :data:`BASE_ROWS_PER_S`."""
        return SPEEDS[self.speed]

    def grow(self, count: int) -> Playback:
        """The source has ``count`` rows now; a smaller number is ignored."""
        count = max(count, self.count)
        position = max(count - 1, 0) if self.following else min(self.position, max(count - 1, 0))
        return replace(self, count=count, position=position)

    def tick(self, elapsed_s: float, *, finished: bool = True) -> Playback:
        """Let ``elapsed_s`` seconds pass. At the end of a finished source playing stops."""
        if not self.playing or self.following or not elapsed_s > 0:
            return self
        advance = self.carry + elapsed_s * BASE_ROWS_PER_S * self.factor
        whole = math.floor(min(advance, float(self.count)))
        position = min(self.position + whole, self.last)
        at_end = position == self.last
        carry = 0.0 if at_end else advance - whole
        return replace(self, position=position, carry=carry, playing=not (at_end and finished))

    def seek(self, row: int) -> Playback:
        """Go to ``row`` (clamped). Going anywhere by hand stops following."""
        position = min(max(row, 0), self.last)
        return replace(self, position=position, following=False, carry=0.0)

    def step(self, rows: int) -> Playback:
        """Move by ``rows`` and stop playing: a person who steps wants to look."""
        return replace(self.seek(self.position + rows), playing=False)

    def home(self) -> Playback:
        """Go to the first row."""
        return self.step(-self.position)

    def end(self) -> Playback:
        """Go to the newest row and follow it from there."""
        return replace(self, position=self.last, following=True, playing=True, carry=0.0)

    def toggle_play(self) -> Playback:
        """Play or freeze. Frozen means not following either; playing at the end starts over."""
        if self.playing or self.following:
            return replace(self, playing=False, following=False, carry=0.0)
        restart = self.count > 1 and self.position == self.last
        return replace(self, playing=True, position=0 if restart else self.position, carry=0.0)

    def resume_live(self) -> Playback:
        """Play or freeze where rows still arrive: playing again at the end means to follow."""
        if self.playing or self.following:
            return self.toggle_play()
        if self.position == self.last:
            return self.end()
        return replace(self, playing=True, carry=0.0)

    def toggle_follow(self) -> Playback:
        """Stick to the newest row, or let go of it."""
        return replace(self, following=False, playing=False) if self.following else self.end()

    def faster(self) -> Playback:
        return replace(self, speed=min(self.speed + 1, len(SPEEDS) - 1))

    def slower(self) -> Playback:
        return replace(self, speed=max(self.speed - 1, 0))

    def next_of(self, rows: Sequence[int]) -> Playback:
        """Go to the first of the sorted ``rows`` after the position; beyond them to the last."""
        if not rows:
            return self
        index = min(bisect_right(rows, self.position), len(rows) - 1)
        return replace(self.seek(rows[index]), playing=False)

    def previous_of(self, rows: Sequence[int]) -> Playback:
        """Go to the last of the sorted ``rows`` before the position; before them to the first."""
        if not rows:
            return self
        index = max(bisect_left(rows, self.position) - 1, 0)
        return replace(self.seek(rows[index]), playing=False)
