"""The next recovery does not come to its end: a kill, a power cut or a failing sync in it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import At, Fault, Target, is_any_sync, is_changing
from megacontext.simulator.faults.calls import Call, Fate
from megacontext.simulator.faults.kill import die

__all__ = ["InterruptedRecovery", "fail_sync"]


def fail_sync(call: Call) -> bool:
    """EIO, and the dirty sectors count as clean from then on (as Linux does)."""
    call.dirty.clear()
    raise OSError(errno.EIO, os.strerror(errno.EIO), str(call.path))


@dataclass(frozen=True)
class InterruptedRecovery(Fault):
    """At the n-th call (modulo a recovery's usual length); then the recovery is tried again."""

    name: ClassVar[str] = "interrupted_recovery"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        nth = 1 + nth % 24
        if salt % 3 == 0:
            world.disturb_recovery(At(1 + nth % 8, is_any_sync, fail_sync), None)
        else:
            fate = Fate(salt, 0.5) if salt % 3 == 1 else None
            world.disturb_recovery(At(nth, is_changing, die), fate)
