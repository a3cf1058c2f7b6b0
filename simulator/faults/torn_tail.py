"""Power fails while a file grows: it ends anywhere between its old and its new size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import At, Fault, Target, is_changing
from megacontext.simulator.faults.calls import Fate
from megacontext.simulator.faults.kill import die

__all__ = ["TornTail"]


@dataclass(frozen=True)
class TornTail(Fault):
    """A power cut before the n-th changing call; most sectors survive, the ends are torn."""

    name: ClassVar[str] = "torn_tail"
    keep: float = 0.9

    def strike(self, world: Target, nth: int, salt: int) -> None:
        fate = Fate(salt, self.keep, torn=True)
        world.arm(self.name, At(nth, is_changing, die), fate)
