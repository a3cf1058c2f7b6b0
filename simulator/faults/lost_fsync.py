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
    """The n-th sync does nothing; power fails at once, before the next sync brings what this one
    did not, or up to twenty changing calls later, when other files may be ahead of this one."""

    name: ClassVar[str] = "lost_fsync"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        fate = Fate(salt, (0.5, 0.8, 0.95)[salt % 3])

        def lie(call: Call) -> bool:
            world.lied()
            longest = (2, 7, 20)[salt // 32 % 3]
            world.arm(self.name, At(1 + salt % longest, is_changing, die), fate)
            return True

        world.arm(self.name, At(nth, is_sync, lie), fate)
