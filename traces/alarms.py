"""Alarms as a trace holds them: markers with value and bound, and what to look at for each.

``alarm swap_rate 0.312 above 0.25 (mean of 24 refocuses)`` on the row where it was raised,
``alarm over swap_rate 0.201`` where the mean came back far enough.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from megacontext.traces.reader import TraceReader

__all__ = ["ALARM_HINTS", "Alarm", "alarms_of", "hint_of"]

ALARM_HINTS: Mapping[str, tuple[str, str]] = {
    "swap_rate": (
        "blocks change all the time",
        "blocks-change-all-the-time",
    ),
    "residency": (
        "blocks change all the time",
        "blocks-change-all-the-time",
    ),
    "delta_nll": ("the window predicts worse than all of the history", "δnll-or-kv-drift-grows"),
    "drift": ("the cache differs from a recomputed one", "δnll-or-kv-drift-grows"),
    "stale_gists": ("gists and base model were not trained together", "the-gists-are-stale"),
    "raw_blocks": ("the budget leaves no place for detail", "the-budget-is-starved"),
}
"""By alarm: what it means, and the heading of ``docs/troubleshooting.md`` to read (its anchor)."""

_RAISED = re.compile(
    r"\balarm (\w+) (-?[\d.]+(?:e-?\d+)?) (above|below) ([\d.]+) \(mean of (\d+) (\w+)\)"
)


@dataclass(frozen=True)
class Alarm:
    """An alarm that was raised.

    Attributes:
        step: the refocus that raised it; ``row``: where its marker stands.
        value: mean over the last ``window`` refocuses or samples (``unit``).
        bound: what the mean went ``side`` (above or below).
    """

    name: str
    step: int
    row: int
    value: float
    bound: float
    side: str
    window: int
    unit: str

    def __str__(self) -> str:
        return f"{self.name} {self.value:g} {self.side} {self.bound:g} at step {self.step}"


def hint_of(name: str) -> str:
    """What an alarm means and where to read on, in one line; "" for an unknown name."""
    if name not in ALARM_HINTS:
        return ""
    meaning, anchor = ALARM_HINTS[name]
    return f"{meaning}: docs/troubleshooting.md#{anchor}"


def alarms_of(reader: TraceReader) -> list[Alarm]:
    """The alarms that a trace's markers name, oldest first."""
    overview = reader.overview()
    alarms = []
    for row in sorted(overview.markers):
        for name, value, side, bound, window, unit in _RAISED.findall(overview.markers[row]):
            step = int(overview.step[row])
            alarms.append(
                Alarm(name, step, row, float(value), float(bound), side, int(window), unit)
            )
    return alarms
