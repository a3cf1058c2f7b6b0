"""The process dies between two calls; the system, and its page cache, live on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import At, Fault, Target, is_changing
from megacontext.simulator.faults.calls import Call, Killed

__all__ = ["Kill", "die"]


def die(call: Call) -> bool:
    """Raise :class:`Killed` in the middle of the product's work."""
    raise Killed(f"killed before call {call.number}: {call.kind} {call.path}")


@dataclass(frozen=True)
class Kill(Fault):
    """SIGKILL before the n-th call that would change the disk."""

    name: ClassVar[str] = "kill"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        world.arm(self.name, At(nth, is_changing, die), fate=None)
