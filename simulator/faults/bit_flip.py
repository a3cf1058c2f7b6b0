"""One bit of one file of the tree turns over while nobody looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import Fault, Target

__all__ = ["BitFlip"]


@dataclass(frozen=True)
class BitFlip(Fault):
    """Opening or verifying must notice, or the bit must not matter; then it is turned back."""

    name: ClassVar[str] = "bit_flip"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        world.flip_a_bit(salt)
