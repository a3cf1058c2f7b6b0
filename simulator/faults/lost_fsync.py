"""A drive that lies: one sync returns before anything is stable, then power fails.

No program can keep what the drive had promised and dropped, so committed tokens may be lost here;
what must not happen is that the loss goes unnoticed as wrong bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import At, Fault, Target, is_changing, is_sync
from megacontext.simulator.faults.calls import Call, Fate
from megacontext.simulator.faults.kill import die

__all__ = ["LostFsync"]


@dataclass(frozen=True)
class LostFsync(Fault):
    """The n-th sync does nothing; power fails up to twenty changing calls later, so that a file
    which comes later in a commit may be ahead of this one."""

    name: ClassVar[str] = "lost_fsync"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        fate = Fate(salt, (0.5, 0.8, 0.95)[salt % 3])

        def lie(call: Call) -> bool:
            world.lied()
            world.arm(self.name, At(1 + salt % 20, is_changing, die), fate)
            return True

        world.arm(self.name, At(nth, is_sync, lie), fate)
