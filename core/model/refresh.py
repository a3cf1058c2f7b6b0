"""Which rows of a window equal a full recompute, and when the others are recomputed.

Rows ``[0, clean)`` are known to be what a full recompute would give. A *refresh* is the exact
recompute of the rest, in window order and in place, some rows before each append, so that no step
stalls; an edit that arrives meanwhile moves ``clean`` back to the first row that it changed. When
``clean`` reaches the end the window is exact again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megacontext.traces.schema import KVMode

__all__ = ["Refresh"]


class Refresh:
    """Counts rows, edits and tokens; the window computes.

    Args:
        mode: exact windows have no drift and need no refresh.
        drift_every: sample the drift every so many edits, 0 for never.
        every: start a refresh every so many appended tokens, 0 for never.
        chunk: rows of one step of a refresh.

    Attributes:
        clean: rows at the window's start that equal a full recompute.
        running: a refresh is under way.
    """

    def __init__(self, mode: KVMode, drift_every: int, every: int, chunk: int) -> None:
        self._spliced = mode is KVMode.SPLICE
        self._drift_every = drift_every
        self._every = every
        self._chunk = chunk
        self.reset()

    def reset(self) -> None:
        """The window is empty."""
        self.clean = 0
        self.running = False
        self._edits = 0
        self._tokens = 0
        self._rows = 0

    def edited(self, first_change: int) -> None:
        """Rows from ``first_change`` on are no longer what a full recompute would give."""
        self.clean = min(self.clean, first_change)

    def computed(self, rows: NDArray[np.int64], total: int) -> None:
        """``rows`` (window order) of a window of ``total`` rows were computed."""
        done = np.zeros(total + 1, dtype=np.bool_)
        done[rows] = True
        self.clean += int(np.argmin(done[self.clean :]))

    def appended(self, count: int) -> None:
        """Tokens came in; a refresh starts if it is due by their number."""
        self._tokens += count

    def start_if_due(self, total: int) -> None:
        """Start a refresh of a window of ``total`` rows if enough tokens came in since the last."""
        if self._spliced and 0 < self._every <= self._tokens:
            self.start(total)

    def start(self, total: int) -> None:
        """Start a refresh of a window of ``total`` rows."""
        self.running = self.clean < total
        self._tokens = 0

    def next_rows(self, total: int) -> NDArray[np.int64]:
        """The rows that a refresh computes next; the caller does so."""
        rows = np.arange(self.clean, min(self.clean + self._chunk, total))
        self._rows += len(rows)
        return rows

    def end_if_done(self, total: int) -> None:
        """End a refresh that has reached the last row."""
        self.running = self.clean < total

    def drift_is_due(self) -> bool:
        """Count an edit; whether it is one of those whose drift is sampled."""
        if not self._spliced:
            return False
        self._edits += 1
        return self._drift_every > 0 and self._edits % self._drift_every == 0

    @property
    def rows(self) -> int:
        """Rows refreshed since :meth:`take_rows`."""
        return self._rows

    def take_rows(self) -> int:
        """Rows refreshed since the last call."""
        rows, self._rows = self._rows, 0
        return rows
