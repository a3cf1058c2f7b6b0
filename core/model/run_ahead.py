"""Rows computed before the host knows their tokens.

A GPU that has chosen the likeliest next token can read it at once. So the window lets it compute
some rows ahead, each reading what the one before chose, while the host still takes in the tokens
before them. Nothing is guessed: greedy decoding appends just these tokens. If the text goes on
otherwise, the rows are dropped; their slots were free and are written again.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from megacontext.core.model.base import Forward
from megacontext.core.model.choice import Choice
from megacontext.core.model.runner import AheadRunner, RowRunner

__all__ = ["RunAhead"]

_MOST = 4
"""Rows ahead at most: as much host time as they take can pass unseen; more are wasted at an end."""


class RunAhead:
    """The rows that were computed ahead of a window's last one, oldest first."""

    def __init__(self, runner: RowRunner) -> None:
        self._runner: AheadRunner | None = runner if isinstance(runner, AheadRunner) else None
        self._rows: deque[Forward] = deque()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def most(self) -> int:
        """Rows that may be ahead; 0 of a runner whose choices the host makes."""
        return 0 if self._runner is None else _MOST

    def drop(self) -> None:
        """The window goes on otherwise."""
        self._rows.clear()

    def take(self, last: Forward | None, token: int) -> Forward | None:
        """The row of ``token`` behind ``last``, if it was computed ahead."""
        if not self._rows or last is None or last.choice is None or last.choice.token != token:
            self.drop()
            return None
        return self._rows.popleft()

    def newest(self, last: Forward | None) -> Choice | None:
        """What the newest row, behind ``last``, has chosen."""
        newest = self._rows[-1] if self._rows else last
        return None if newest is None else newest.choice

    def compute(self, choice: Choice, slot: int, order: int, position: int) -> None:
        """Compute the row of the token ``choice``."""
        assert self._runner is not None
        self._rows.append(self._runner.run_choice(choice, slot, order, position))

    def compute_with(self, choice: Choice, rows: NDArray[np.int64]) -> None:
        """Compute ``rows`` I64[3, r] (slots, orders, positions), the last being of ``choice``."""
        assert self._runner is not None
        self._runner.write_choice(choice, int(rows[0, -1]))
        slots, orders, positions = rows
        self._rows.append(self._runner.run(slots, orders, positions, 1))
