"""Power fails: an arbitrary half of the unsynced 512-byte sectors never reached the disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import At, Fault, Target, is_changing
from megacontext.simulator.faults.calls import Fate
from megacontext.simulator.faults.kill import die

__all__ = ["LostSectors"]


@dataclass(frozen=True)
class LostSectors(Fault):
    """A power cut before the n-th changing call; each unsynced sector survives with ``keep``."""

    name: ClassVar[str] = "lost_sectors"
    keep: float = 0.5

    def strike(self, world: Target, nth: int, salt: int) -> None:
        fate = Fate(salt, self.keep, torn=False)
        world.arm(self.name, At(nth, is_changing, die), fate)
