"""Alarms of a running session: a mean over a window beyond its bound, with hysteresis.

What is raised follows from the rows, and from whether the GistNet fits the base model. So two runs
with one seed raise the same alarms and a resumed run goes on as the unbroken one would have.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from megacontext.core.config.schema import AlarmsConfig
from megacontext.traces.refocuses import Refocus
from megacontext.traces.row import TraceRow

__all__ = ["SETTLED", "AlarmMonitor", "Watched"]

SETTLED = 2.5
"""Multiples of the budget that the history must have: until then the window fills for the first
time and moves more than it ever will again."""
_LONG = 4
"""Residency dips at every question; its mean is taken over so many windows."""


@dataclass
class Watched:
    """One metric, its bound and whether its alarm is on.

    Attributes:
        upper: the bound is an upper one.
        release: what the mean must come back to before the alarm is over.
        window: values that the mean is taken over; none is raised before there are so many.
    """

    name: str
    bound: float
    upper: bool
    release: float
    window: int
    unit: str
    on: bool = False
    values: deque[float] = field(default_factory=deque)

    def add(self, value: float) -> str:
        """Take the next value; gives the marker's text where the alarm begins or ends."""
        if not math.isfinite(value):
            return ""
        self.values.append(value)
        if len(self.values) > self.window:
            self.values.popleft()
        if len(self.values) < self.window:
            return ""
        mean = sum(self.values) / self.window
        sign = 1 if self.upper else -1
        if not self.on and sign * (mean - self.bound) > 0:
            self.on = True
            side = "above" if self.upper else "below"
            of = f"(mean of {self.window} {self.unit})"
            return f"alarm {self.name} {mean:.4g} {side} {self.bound:g} {of}"
        if self.on and sign * (mean - self.release) <= 0:
            self.on = False
            return f"alarm over {self.name} {mean:.4g}"
        return ""


class AlarmMonitor:
    """Watches the refocuses of one session.

    Args:
        config: bounds and windows; a bound of 0 watches nothing.
        protected_blocks: newest blocks that are raw whatever the lens says.
        block_size: tokens of a block.

    Attributes:
        stale_gists: whether the GistNet does not fit the base model from the next row on.
    """

    def __init__(
        self,
        config: AlarmsConfig,
        protected_blocks: int,
        block_size: int,
        stale_gists: bool = False,
    ) -> None:
        fraction, window = config.hysteresis, config.window
        self._protected, self._block_size = protected_blocks, block_size
        self.stale_gists = stale_gists

        # Means that must stay below their bounds.
        upper = (
            ("stale_gists", config.stale_gists, window, "refocuses"),
            ("swap_rate", config.swap_rate, window, "refocuses"),
            ("delta_nll", config.delta_nll, config.samples, "samples"),
            ("drift", config.drift, config.samples, "samples"),
        )
        watched = [
            Watched(name, bound, True, bound * (1 - fraction), count, unit)
            for name, bound, count, unit in upper
        ]

        # Means that must stay above them.
        low, raw = config.residency, config.raw_blocks
        watched += [
            Watched(
                "residency", low, False, low + fraction * (1 - low), _LONG * window, "refocuses"
            ),
            Watched("raw_blocks", raw, False, raw * (1 + fraction), window, "refocuses"),
        ]
        self._watched = {w.name: w for w in watched if config.enabled and w.bound > 0}

    @property
    def on(self) -> int:
        """Alarms that are on now."""
        return sum(watched.on for watched in self._watched.values())

    def add(self, refocus: Refocus, rows: Sequence[TraceRow]) -> list[str]:
        """Take a whole refocus with its rows; gives the texts of the markers for it."""
        last = rows[-1]
        if not self._watched:
            return []
        texts = [self._add("stale_gists", self._stale_fraction(last))]
        if last.history_tokens < SETTLED * last.w_max:
            return [text for text in texts if text]
        texts += [
            self._add("swap_rate", refocus.swap_rate),
            self._add("residency", refocus.residency),
            self._add("raw_blocks", float(refocus.raw_blocks - self._protected)),
        ]
        for row in rows:
            texts.append(self._add("drift", row.kv_drift))
            texts.append(self._add("delta_nll", row.delta_nll))
        return [text for text in texts if text]

    def _stale_fraction(self, row: TraceRow) -> float:
        """The fraction of the history that is seen through gists which do not fit the model."""
        if not self.stale_gists:
            return 0.0
        levels = row.levels[row.levels > 0].astype(np.float64)
        return float((self._block_size**levels).sum()) / max(row.history_tokens, 1)

    def _add(self, name: str, value: float | None) -> str:
        watched = self._watched.get(name)
        return "" if watched is None or value is None else watched.add(float(value))
