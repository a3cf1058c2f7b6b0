"""The walk that turns an ordered list of wishes into legal actions and reasons.

Allocators differ in which wishes they have and in what order; budget, pairs, ``n_diff`` and the
list of rejected candidates are the same for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.core.allocators.rejections import Turned, rejections
from megacontext.core.focus.actions import ACTION_DTYPE, COLLAPSE, EXPAND, F32, I64, Actions
from megacontext.core.focus.constraints import OPEN, order_key
from megacontext.core.focus.view import AllocatorView, Decision
from megacontext.traces.schema import Reason

__all__ = ["Wishes", "best_expands", "by_strength", "cheapest_groups", "first_by", "walk"]


@dataclass(slots=True)
class Wishes:
    """Candidate rows in order of preference: ``kinds[k]`` is EXPAND (a row of the expand
    candidates) or COLLAPSE (a row of the groups)."""

    kinds: list[int]
    rows: list[int]


def first_by(scores: F32, positions: I64, count: int, *, highest: bool) -> I64:
    """Where the ``count`` lowest (or highest) of ``scores`` are, in order.

    Ties: the oldest first when lowest are asked for, the newest first when highest.
    """
    where = None
    if len(scores) > 2 * count + 64:  # a cheap cut first; ties at the cut are kept
        cut = len(scores) - count if highest else count - 1
        bound = np.partition(scores, cut)[cut]
        where = np.flatnonzero(scores >= bound if highest else scores <= bound)
        scores, positions = scores[where], positions[where]
    keys = order_key(scores, positions)
    order = keys.argsort()[: -count - 1 : -1] if highest else keys.argsort()[:count]
    return order if where is None else where[order]


def best_expands(view: AllocatorView, count: int) -> I64:
    """Rows of the best open expand candidates, best first, ties nearest to the cursor first."""
    found = view.candidates
    rows: I64 = (found.expand_reason == OPEN).nonzero()[0]
    best = first_by(found.expand_score[rows], found.expand_at[rows], count, highest=True)
    chosen: I64 = rows[best]
    return chosen


def cheapest_groups(view: AllocatorView, count: int) -> I64:
    """Rows of the open groups with the lowest scores, lowest first, ties oldest first."""
    found = view.candidates
    rows: I64 = (found.group_reason == OPEN).nonzero()[0]
    best = first_by(found.group_score[rows], found.group_at[rows], count, highest=False)
    chosen: I64 = rows[best]
    return chosen


def by_strength(view: AllocatorView, expands: I64, groups: I64) -> Wishes:
    """Expands and collapses merged by how far their scores are from 0; expands win ties."""
    found = view.candidates
    strength = np.concatenate([found.expand_score[expands], -found.group_score[groups]])
    order = (-strength).argsort(kind="stable")
    rows = np.concatenate([expands, groups])[order]
    return Wishes((order >= len(expands)).astype(np.int8).tolist(), rows.tolist())


class _Walk:
    """State of one walk, in plain Python numbers: it touches a few dozen candidates."""

    def __init__(self, view: AllocatorView, payers: I64) -> None:
        found = view.candidates
        first = found.group_at[payers]
        self.payers: list[int] = payers.tolist()  # group rows, cheapest first
        self.low: list[int] = first.tolist()
        self.high: list[int] = (first + found.group_count[payers]).tolist()
        self.price: list[float] = found.group_score[payers].tolist()
        self.margin = view.limits.margin
        self.room = view.room
        self.next = 0  # payers before it are gone or broken
        self.moved = False  # something was taken since ``next`` was looked for
        self.taken: list[tuple[int, int, int]] = []  # kind, row, reason
        self.expanded: list[int] = []  # positions
        self.gone: list[tuple[int, int]] = []  # position ranges collapsed

    def covered(self, at: int) -> bool:
        return any(low <= at < high for low, high in self.gone)

    def intact(self, low: int, high: int) -> bool:
        """Neither collapsed nor broken by an expand so far."""
        return (low, high) not in self.gone and not any(low <= at < high for at in self.expanded)

    def collapse(self, row: int, low: int, high: int, reason: int) -> None:
        self.taken.append((COLLAPSE, row, reason))
        self.gone.append((low, high))
        self.room += 1
        self.moved = True

    def expand(self, row: int, at: int, reason: int) -> None:
        self.taken.append((EXPAND, row, reason))
        self.expanded.append(at)
        self.room -= 1
        self.moved = True

    def swap(self, row: int, at: int, score: float, left: int) -> int:
        """Collapse the cheapest payer and expand; OPEN, or why not."""
        payers = len(self.payers)
        if self.moved:
            self.moved = False
            while self.next < payers and not self.intact(self.low[self.next], self.high[self.next]):
                self.next += 1
        payer = self.next
        while payer < payers:
            low, high = self.low[payer], self.high[payer]
            if not low <= at < high and (payer == self.next or self.intact(low, high)):
                break
            payer += 1
        if payer == payers:
            return Reason.BUDGET
        if score - self.price[payer] <= self.margin:
            return Reason.GAIN
        if left < 2:
            return Reason.N_DIFF
        self.collapse(self.payers[payer], low, high, Reason.PAIR)
        self.expand(row, at, Reason.PAIR)
        return OPEN


def walk(
    view: AllocatorView,
    wishes: Wishes,
    payers: I64,
    reason: Reason,
    turned: Turned | None = None,
) -> Decision:
    """Grant wishes in order as budget, ``n_diff`` and gains allow.

    An expand without room is paired with the cheapest payer if the gain (score of the gist minus
    score of the group) exceeds ``limits.margin``; the collapse is applied first and the pair
    counts as two actions.

    Args:
        wishes: open candidates only.
        payers: rows of open groups, cheapest first; as many as could be needed.
        reason: what granted single actions say.
        turned: candidates that the policy itself ruled out; more are added here.
    """
    turned = turned or Turned()
    found, n_diff = view.candidates, view.limits.n_diff
    state = _Walk(view, payers)
    for done, (kind, row) in enumerate(zip(wishes.kinds, wishes.rows, strict=True)):
        left = n_diff - len(state.taken)
        if left < 1:
            turned.rest(wishes.kinds[done:], wishes.rows[done:], state.taken)
            break
        if kind == COLLAPSE:
            low = int(found.group_at[row])
            high = low + int(found.group_count[row])
            if state.intact(low, high):  # else it paid for an expand, or a member was expanded
                state.collapse(row, low, high, reason)
            continue
        at = int(found.expand_at[row])
        if state.gone and state.covered(at):
            turned.add(EXPAND, row, Reason.BUDGET)
        elif state.room > 0:
            state.expand(row, at, reason)
        else:
            why = state.swap(row, at, float(found.expand_score[row]), left)
            if why != OPEN:
                turned.add(EXPAND, row, why)
    return Decision(_as_actions(view, state.taken), rejections(view, turned))


def _as_actions(view: AllocatorView, taken: list[tuple[int, int, int]]) -> Actions:
    found, size = view.candidates, view.block_size
    actions = np.empty(len(taken), ACTION_DTYPE)
    for at, (kind, row, reason) in enumerate(taken):
        if kind == EXPAND:
            where = found.expand_at[row]
            level, index = view.levels[where], view.index[where]
            actions[at] = (kind, level, index, found.expand_score[row], size - 1, False, reason)
        else:
            level, index = found.group_level[row], found.group_index[row]
            actions[at] = (kind, level, index, found.group_score[row], 1 - size, False, reason)
    return actions
