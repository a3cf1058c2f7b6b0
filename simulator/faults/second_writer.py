"""Somebody else opens the tree for writing while it is in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import Fault, Target

__all__ = ["SecondWriter"]


@dataclass(frozen=True)
class SecondWriter(Fault):
    """The second one must be refused at once and leave no mark."""

    name: ClassVar[str] = "second_writer"

    def strike(self, world: Target, nth: int, salt: int) -> None:
        world.open_second_writer()
