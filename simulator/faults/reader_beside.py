"""Somebody reads and verifies the tree while its writer is at work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import Fault, Target

__all__ = ["ReaderBeside"]


@dataclass(frozen=True)
class ReaderBeside(Fault):
    """Before the n-th changing call: what a reader sees is a prefix, and nothing false is said."""

    name: ClassVar[str] = "reader_beside"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        world.read_during_write(nth)
