"""Our own sets by name: makers by task, and the tasks that are asked where none are named."""

from __future__ import annotations

from megacontext.core.benchmarks.facts import FACT_TASKS
from megacontext.core.benchmarks.needles import NEEDLE_TASKS
from megacontext.core.benchmarks.planting import Make
from megacontext.core.benchmarks.worlds import WORLD_TASKS

__all__ = ["SETS"]

SETS: dict[str, tuple[dict[str, Make], tuple[str, ...]]] = {
    "worlds": (WORLD_TASKS, tuple(WORLD_TASKS)),
    "needles": (NEEDLE_TASKS, tuple(NEEDLE_TASKS)),
    "facts": (FACT_TASKS, ("held_out",)),
}
