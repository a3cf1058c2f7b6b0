"""The disk is full from the n-th write on, until someone makes room."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import At, Fault, Target, is_write
from megacontext.simulator.faults.calls import Call

__all__ = ["Enospc", "no_space"]


def no_space(call: Call) -> bool:
    """Raise ENOSPC."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(call.path))


@dataclass(frozen=True)
class Enospc(Fault):
    """Every write from the n-th on fails; the world makes room when it sees the error."""

    name: ClassVar[str] = "enospc"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        world.arm(self.name, At(nth, is_write, no_space, stay=True), fate=None)
