"""One call fails with an I/O error, whichever it is."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import At, Fault, Target
from megacontext.simulator.faults.calls import Call

__all__ = ["Eio", "does_io", "io_error"]


def does_io(call: Call) -> bool:
    """Whether the call moves data or names; sizes, look-ups and maps cannot fail that way."""
    return call.kind not in ("view", "size", "exists")


def io_error(call: Call) -> bool:
    """Raise EIO."""
    raise OSError(errno.EIO, os.strerror(errno.EIO), str(call.path))


@dataclass(frozen=True)
class Eio(Fault):
    """EIO at the n-th call that does I/O, reads included."""

    name: ClassVar[str] = "eio"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        world.arm(self.name, At(nth, does_io, io_error), fate=None)
