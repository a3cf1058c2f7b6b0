"""The state of a focus between refocuses, all of it a function of the recorded rows.

* *Cooldowns*: nodes that were expanded or collapsed within the longest cooldown.
* *Re-arming*: a gist that was expanded by choice is disarmed. It is armed again only when, as a
  gist, it shows new evidence: a score below ``tau_expand``, or one that differs by ``NEW_EVIDENCE``
  from the score it was expanded at. (The first alone is not enough: a gist of 32,768 tokens hardly
  ever scores low, and could not be expanded when the question comes.) While it is expanded, it is
  stored among the inner nodes; when it returns to the frontier, it carries a flag; when its parent
  is collapsed, it is forgotten. So the state is never larger than the frontier.

Why forgetting keeps liveness: with fixed scores evidence is never new, so an armed node that was
expanded once stays disarmed while it is known, and it is forgotten only by a collapse of an
ancestor. Let e(L) be the largest number of expansions by choice of one level-L node. A node of the
coarsest level is never forgotten: e(max) <= 1. A level-L node is expanded once, and once more after
each return of its parent's children, which only an expansion of an ancestor brings:
e(L) <= 1 + sum of e(M), M > L, so e(L) <= 2**(max - L). Expansions are finite, each collapse
undoes one or uses up an original node, and the forced ones stop with the appends: a fixed point
is reached in bounded time.

A refocus that *reopens* (a question, an echo) ignores disarmed flags, and the cooldowns of what was
collapsed. Forced collapses happen before the next question is known, so they must not block it; and
a gist that scored high for an earlier question shows no new evidence by scoring as high for this
one. Within the refocus no node changes twice, so each question adds at most one expansion a node:
with q of them e(L) <= (1 + q) * 2**(max - L), and after the last one a fixed point is reached as
before. What a question expanded is in cooldown like any other node, so between two questions
nothing changes back and forth more than it did.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from megacontext.core.focus.actions import EXPAND, F32, I8, I64, Actions, Bools
from megacontext.core.focus.constraints import Cooldowns
from megacontext.core.focus.plan import Splice
from megacontext.core.focus.view import MAX_COOLDOWN

__all__ = ["NEW_EVIDENCE", "Memory", "changed_nodes"]

NEW_EVIDENCE = 0.1
"""Change of a gist's score since its expansion that lets it expand again."""


class Memory:
    """Cooldowns, arms and ages along a frontier that grows and is edited.

    Attributes:
        disarmed: bool[n], gists that may not expand until their score shows new evidence.
        created_at: I64[n], refocus at which an entry entered the frontier.
    """

    def __init__(self, entries: int = 0, step: int = 0) -> None:
        self.disarmed: Bools = np.zeros(entries, np.bool_)
        self.created_at: I64 = np.full(entries, step, np.int64)
        self._expanded_score: F32 = np.zeros(entries, np.float32)
        self._any_disarmed = False
        self._expanded: dict[tuple[int, int], float] = {}
        self._changes: deque[tuple[int, Cooldowns]] = deque()

    def grow(self, entries: int, step: int) -> None:
        """``entries`` new frontier entries at the end, first seen by refocus ``step``."""
        if entries:
            self.disarmed = np.concatenate([self.disarmed, np.zeros(entries, np.bool_)])
            self._expanded_score = np.concatenate(
                [self._expanded_score, np.zeros(entries, np.float32)]
            )
            created_at = np.empty(entries, np.int64)
            created_at.fill(step)
            self.created_at = np.concatenate([self.created_at, created_at])

    def disarmed_or_none(self) -> Bools | None:
        """The disarmed flags, or None where there are none."""
        return self.disarmed if self._any_disarmed else None

    def rearm(self, scores: F32, tau_expand: float) -> None:
        """Arm the gists that show new evidence; ``scores`` F32[n]."""
        if self._any_disarmed:
            same = np.abs(scores - self._expanded_score) < np.float32(NEW_EVIDENCE)
            self.disarmed = self.disarmed & same & (scores >= np.float32(tau_expand))
            self._any_disarmed = bool(self.disarmed.any())

    def cooling(self, step: int, cooldown_steps: int, reopen: bool = False) -> Cooldowns | None:
        """Nodes that may not change back at refocus ``step``.

        With ``reopen``, nodes that an earlier refocus collapsed may.
        """
        recent = [
            changes.expanded() if reopen and at < step else changes
            for at, changes in self._changes
            if at + cooldown_steps >= step
        ]
        if len(recent) <= 1:
            return recent[0] if recent else None
        return Cooldowns(
            np.concatenate([changes.kinds for changes in recent]),
            np.concatenate([changes.levels for changes in recent]),
            np.concatenate([changes.index for changes in recent]),
        )

    def follow(
        self, actions: Actions, splices: list[Splice], step: int, levels: I8, starts: I64, size: int
    ) -> None:
        """Take over an applied plan; ``levels`` and ``starts`` are the frontier after it."""
        for splice in splices:
            self.disarmed = splice.carry(self.disarmed, False)  # type: ignore[assignment]
            self._expanded_score = splice.carry(self._expanded_score, 0.0)  # type: ignore[assignment]
            self.created_at = splice.carry(self.created_at, step)  # type: ignore[assignment]
        changes = changed_nodes(actions)
        self._changes.append((step, changes))
        while self._changes[0][0] < step - MAX_COOLDOWN:
            self._changes.popleft()
        for kind, level, index, score in zip(
            changes.kinds.tolist(),
            changes.levels.tolist(),
            changes.index.tolist(),
            actions["score"].tolist(),
            strict=True,
        ):
            if kind == EXPAND:
                self._expanded[level, index] = score
            elif (level, index) in self._expanded:
                expanded_score = self._expanded.pop((level, index))
                start = index * size**level
                at = int(starts.searchsorted(start))
                # A later action of the plan may have collapsed its parent: then it is forgotten.
                if at < len(levels) and starts[at] == start and levels[at] == level:
                    self.disarmed[at] = True
                    self._expanded_score[at] = expanded_score
                    self._any_disarmed = True


def changed_nodes(actions: Actions) -> Cooldowns:
    """The nodes that ``actions`` change, for their cooldown."""
    return Cooldowns(
        actions["kind"].astype(np.int8),
        actions["level"].astype(np.int64),
        actions["index"].astype(np.int64),
    )
