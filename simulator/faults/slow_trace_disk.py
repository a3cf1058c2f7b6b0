"""The disk under the trace hangs: rows pile up, scores are dropped, decoding goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import Fault, Target

__all__ = ["SlowTraceDisk"]


@dataclass(frozen=True)
class SlowTraceDisk(Fault):
    """A writer with its own thread is held at its first write until ``rows`` rows were put.

    The one place with a thread: the gate makes what is checked independent of its timing.
    """

    name: ClassVar[str] = "slow_trace_disk"
    rows: int = 24

    def strike(self, world: Target, nth: int, salt: int) -> None:
        world.write_to_stalled_disk(self.rows, queue_rows=1 + nth % 8)
