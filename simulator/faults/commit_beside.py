"""The writer commits while somebody reads: between two reads of one look at the tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import Fault, Target

__all__ = ["CommitBeside"]

_READS = 64
"""A reader's refresh and verification of a small tree make about so many."""


@dataclass(frozen=True)
class CommitBeside(Fault):
    """The next commit comes at the n-th read of a reader, which sees the old state or the new."""

    name: ClassVar[str] = "commit_beside"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        world.commit_during_read(1 + nth % _READS)
