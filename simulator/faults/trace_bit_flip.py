"""One bit of the growing trace turns over while nobody looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import Fault, Target

__all__ = ["TraceBitFlip"]


@dataclass(frozen=True)
class TraceBitFlip(Fault):
    """A reader names the damage, or every row is as it was put; then the bit is turned back."""

    name: ClassVar[str] = "trace_bit_flip"
    needs_disk: ClassVar[bool] = False

    def strike(self, world: Target, nth: int, salt: int) -> None:
        world.flip_a_trace_bit(salt)
