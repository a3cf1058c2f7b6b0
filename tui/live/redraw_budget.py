"""How often a live view redraws by itself: as often as a small share of the machine allows.

A viewer that follows a run on two cores takes its time from the engine: while one core draws, the
engine's threads on the other wait for the one that was pushed aside. So what nobody asked for by
a key or the mouse has a budget of CPU time. On a large machine it never binds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

__all__ = ["SHARE_PER_CORE", "Pace", "cores"]

SHARE_PER_CORE = 0.0075
"""CPU seconds per second and core of the machine: 1.5 % of one core where there are two."""
LONGEST_WAIT_S = 1.0
"""A picture a second is drawn whatever it costs, also right after a person's own work."""


def cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Pace:
    """An account that time fills and CPU time empties; redrawing is due while it is not overdrawn.

    Args:
        clock: seconds.
        cpu_clock: CPU seconds that this process has used, all threads.
        share: CPU seconds earned per second.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_timer: Callable[[], float] = time.process_time,
        share: float = 0.0,
    ) -> None:
        self._clock, self._cpu_timer = clock, cpu_timer
        self._share = share or SHARE_PER_CORE * cores()
        self._seen, self._used = clock(), cpu_timer()
        self._last_due = self._seen
        self._credit_s = 0.0

    def due(self) -> bool:
        """Settle the account up to now; True where it has credit, or after the longest wait."""
        now, used = self._clock(), self._cpu_timer()
        earned, spent = (now - self._seen) * self._share, used - self._used
        self._seen, self._used = now, used
        most = LONGEST_WAIT_S * self._share
        self._credit_s = min(max(self._credit_s + earned - spent, -most), most)
        due = self._credit_s >= 0.0 or now - self._last_due >= LONGEST_WAIT_S
        if due:
            self._last_due = now
        return due
