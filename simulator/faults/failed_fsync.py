"""A sync fails and the system drops the pages that it could not write (as Linux does; Rebello
et al., "Can applications recover from fsync failures?", USENIX ATC 2020); then power fails."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import At, Fault, Target, is_sync
from megacontext.simulator.faults.calls import Call, Fate

__all__ = ["FailedFsync"]


@dataclass(frozen=True)
class FailedFsync(Fault):
    """The n-th sync is EIO; the dirty sectors count as clean from then on, and are lost."""

    name: ClassVar[str] = "failed_fsync"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        def fail(call: Call) -> bool:
            call.dirty.clear()
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(call.path))

        world.arm(self.name, At(nth, is_sync, fail), Fate(salt, 0.5))
