"""A sync fails and the system drops the pages that it could not write (as Linux does; Rebello
et al., "Can applications recover from fsync failures?", USENIX ATC 2020); then the process starts
again, before power fails or without that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import At, Fault, Target, is_any_sync, is_sync
from megacontext.simulator.faults.calls import Fate
from megacontext.simulator.faults.interrupted_recovery import fail_sync

__all__ = ["FailedFsync"]


@dataclass(frozen=True)
class FailedFsync(Fault):
    """The n-th sync is EIO; the dirty sectors count as clean from then on."""

    name: ClassVar[str] = "failed_fsync"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        matches = is_any_sync if salt % 4 < 2 else is_sync
        world.arm(self.name, At(nth, matches, fail_sync), Fate(salt, 0.5) if salt % 2 else None)
