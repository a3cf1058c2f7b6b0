"""The budget falls in mid-run, between an append and its refocus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from megacontext.simulator.faults.base import Fault

if TYPE_CHECKING:
    from megacontext.simulator.world import World

__all__ = ["BudgetCut"]


@dataclass(frozen=True)
class BudgetCut(Fault):
    """Down to between half and all of the present budget; the next refocus must cope."""

    name: ClassVar[str] = "budget_cut"
    needs_disk: ClassVar[bool] = False

    def strike(self, world: World, nth: int, salt: int) -> None:
        world.set_budget(world.checker.w_max * (500 + salt % 500) // 1000)
