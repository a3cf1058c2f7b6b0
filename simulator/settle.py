"""Liveness: one fixed score for every node, until nothing changes any more."""

from __future__ import annotations

from collections import Counter

import numpy as np

from megacontext.core.focus import RoundResult
from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.lenses import LensView
from megacontext.traces.schema import ActionKind

__all__ = ["Settling"]

_LIMIT = 200
"""Refocuses after which a long settling is cut off; the count per node is the real check."""
_QUESTIONS = 4
_BETWEEN = 3
"""Up to so many questions come in a settling, at every so many refocuses, then none."""


class Settling:
    """Fixed scores and the check that no node goes back and forth.

    With fixed scores a level-L node may be expanded by choice at most (1 + q)*2**(max_levels - L)
    times, where q questions were asked (the bound is derived in the constraint memory's
    documentation), and at most once in one refocus; more is a ping-pong.

    Args:
        salt: picks the scores, and the number of questions.

    Attributes:
        fixed: a fixed point was reached.
    """

    def __init__(self, seed: int, salt: int, max_levels: int) -> None:
        self.max_levels = max_levels
        self.fixed = False
        self._mix = np.uint64((seed * 0x9E3779B97F4A7C15 + salt * 0xBF58476D1CE4E5B9) % (1 << 64))
        self._expanded: Counter[tuple[int, int]] = Counter()
        self._now: set[tuple[int, int]] = set()
        self._acted = False
        self._questions = salt % (_QUESTIONS + 1)
        self._asked = self._idle = self._refocuses = 0

    def scores(self, view: LensView) -> np.ndarray:
        """F32[n]: a hash of (level, index) spread over [-1, 1]."""
        node = view.index.astype(np.uint64) * np.uint64(64) + view.levels.astype(np.uint64)
        mixed = (node + self._mix) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        scores: np.ndarray = (mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - 1
        return scores

    def saw(self, result: RoundResult) -> None:
        """Count what one round did."""
        for kind, level, index, _, _, forced, _ in result.actions.tolist():
            self._acted = True
            if kind == int(ActionKind.EXPAND) and not forced:
                if (level, index) in self._now:
                    raise InvariantError(
                        "liveness", f"({level}, {index}) expanded twice in one refocus"
                    )
                self._now.add((level, index))
                self._expanded[level, index] += 1
                bound = (1 + self._asked) << (self.max_levels - level)
                if self._expanded[level, index] > bound:
                    raise InvariantError(
                        "liveness", f"({level}, {index}) expanded {bound + 1} times at fixed scores"
                    )

    def asks(self) -> bool:
        """Whether the next refocus is a question's."""
        asks = self._asked < self._questions and self._refocuses % _BETWEEN == _BETWEEN - 1
        self._asked += asks
        return asks

    def refocused(self) -> None:
        """A refocus is over."""
        self._refocuses += 1
        self._idle = 0 if self._acted else self._idle + 1
        self._acted = False
        self._now.clear()

    def done(self, cooldown_steps: int) -> bool:
        """A fixed point, or long enough: after a whole cooldown of rest nothing can change."""
        self.fixed = self._idle > cooldown_steps + 1 and self._asked == self._questions
        return self.fixed or self._refocuses >= _LIMIT
