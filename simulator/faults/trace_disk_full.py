"""The disk under the trace is full; the tree has room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import At, Fault, Target, is_write
from megacontext.simulator.faults.calls import Call
from megacontext.simulator.faults.enospc import no_space

__all__ = ["TraceDiskFull"]


@dataclass(frozen=True)
class TraceDiskFull(Fault):
    """Writes to the trace fail from the n-th on; what was written stays readable."""

    name: ClassVar[str] = "trace_disk_full"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        def on_trace(call: Call) -> bool:
            return is_write(call) and ".arrow" in call.path.name

        world.arm(self.name, At(nth, on_trace, no_space, stay=True), fate=None)
