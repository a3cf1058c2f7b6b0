"""The budget falls in mid-run, between an append and its refocus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import Fault, Target

__all__ = ["BudgetCut"]


@dataclass(frozen=True)
class BudgetCut(Fault):
    """Down to between half and all of the present budget; the next refocus must cope."""

    name: ClassVar[str] = "budget_cut"
    needs_disk: ClassVar[bool] = False

    def strike(self, world: Target, nth: int, salt: int) -> None:
        world.set_budget(world.w_max * (500 + salt % 500) // 1000)
