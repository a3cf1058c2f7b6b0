"""Turns an ordered list of requests into legal actions, with reasons.

Allocators differ in their requests and the order of these; budget, pairs, ``n_diff`` and the
list of rejected candidates are the same for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.core.allocators.rejections import RuledOut, rejections
from megacontext.core.focus.actions import ACTION_DTYPE, COLLAPSE, EXPAND, F32, I64, Actions
from megacontext.core.focus.constraints import OPEN, order_key
from megacontext.core.focus.view import AllocatorView, Decision
from megacontext.traces.schema import Reason

__all__ = ["Requests", "best_expand_rows", "by_abs_score", "cheapest_groups", "first_by", "grant"]


@dataclass(slots=True)
class Requests:
    """Candidate rows in order of preference: ``kinds[k]`` is EXPAND (a row of the expand
    candidates) or COLLAPSE (a row of the groups)."""

    kinds: list[int]
    rows: list[int]


def first_by(scores: F32, positions: I64, count: int, *, highest: bool) -> I64:
    """Indices of the ``count`` lowest (or highest) of ``scores``, in order.

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


def best_expand_rows(view: AllocatorView, count: int) -> I64:
    """Rows of the best open expand candidates, best first, ties nearest to the cursor first."""
    candidates = view.candidates
    rows: I64 = (candidates.expand_reason == OPEN).nonzero()[0]
    best = first_by(candidates.expand_score[rows], candidates.expand_at[rows], count, highest=True)
    chosen: I64 = rows[best]
    return chosen


def cheapest_groups(view: AllocatorView, count: int) -> I64:
    """Rows of the open groups with the lowest scores, lowest first, ties oldest first."""
    candidates = view.candidates
    rows: I64 = (candidates.group_reason == OPEN).nonzero()[0]
    best = first_by(candidates.group_score[rows], candidates.group_at[rows], count, highest=False)
    chosen: I64 = rows[best]
    return chosen


def by_abs_score(view: AllocatorView, expand_rows: I64, groups: I64) -> Requests:
    """Expands and collapses merged by how far their scores are from 0; expands win ties."""
    candidates = view.candidates
    abs_score = np.concatenate(
        [candidates.expand_score[expand_rows], -candidates.group_score[groups]]
    )
    order = (-abs_score).argsort(kind="stable")
    rows = np.concatenate([expand_rows, groups])[order]
    return Requests((order >= len(expand_rows)).astype(np.int8).tolist(), rows.tolist())


class _Grants:
    """What was granted so far, in plain Python numbers: there are a few dozen candidates."""

    def __init__(self, view: AllocatorView, groups: I64) -> None:
        candidates = view.candidates
        first = candidates.group_at[groups]
        self.groups: list[int] = groups.tolist()  # group rows, cheapest first
        self.low: list[int] = first.tolist()
        self.high: list[int] = (first + candidates.group_count[groups]).tolist()
        self.group_scores: list[float] = candidates.group_score[groups].tolist()
        self.margin = view.limits.margin
        self.free_slots = view.free_slots
        self.next = 0  # groups before it are collapsed or broken
        self.moved = False  # something was granted since ``next`` was computed
        self.granted: list[tuple[int, int, int]] = []  # kind, row, reason
        self.expanded: list[int] = []  # frontier positions
        self.collapsed: list[tuple[int, int]] = []  # position ranges

    def covered(self, at: int) -> bool:
        return any(low <= at < high for low, high in self.collapsed)

    def intact(self, low: int, high: int) -> bool:
        """Neither collapsed nor broken by an expand so far."""
        return (low, high) not in self.collapsed and not any(
            low <= at < high for at in self.expanded
        )

    def collapse(self, row: int, low: int, high: int, reason: int) -> None:
        self.granted.append((COLLAPSE, row, reason))
        self.collapsed.append((low, high))
        self.free_slots += 1
        self.moved = True

    def expand(self, row: int, at: int, reason: int) -> None:
        self.granted.append((EXPAND, row, reason))
        self.expanded.append(at)
        self.free_slots -= 1
        self.moved = True

    def swap(self, row: int, at: int, score: float, left: int) -> int:
        """Collapse the cheapest group and expand; OPEN, or the reason why not."""
        n_groups = len(self.groups)
        if self.moved:
            self.moved = False
            while self.next < n_groups and not self.intact(
                self.low[self.next], self.high[self.next]
            ):
                self.next += 1

        # The cheapest intact group that does not contain the node.
        group = self.next
        while group < n_groups:
            low, high = self.low[group], self.high[group]
            if not low <= at < high and (group == self.next or self.intact(low, high)):
                break
            group += 1
        if group == n_groups:
            return Reason.BUDGET
        if score - self.group_scores[group] <= self.margin:
            return Reason.GAIN
        if left < 2:
            return Reason.N_DIFF

        self.collapse(self.groups[group], low, high, Reason.PAIR)
        self.expand(row, at, Reason.PAIR)
        return OPEN


def grant(
    view: AllocatorView,
    requests: Requests,
    groups: I64,
    reason: Reason,
    excluded: RuledOut | None = None,
) -> Decision:
    """Grant requests in order as budget, ``n_diff`` and gains allow.

    An expand without a free slot is paired with the cheapest group if the gain (score of the gist
    minus score of the group) exceeds ``limits.margin``. The collapse is applied first, and the pair
    counts as two actions.

    Args:
        requests: open candidates only.
        groups: rows of open groups, lowest score first; as many as could be needed.
        reason: reason of granted single actions.
        excluded: candidates that the policy itself rejects; more are added here.
    """
    excluded = excluded or RuledOut()
    candidates, n_diff = view.candidates, view.limits.n_diff
    state = _Grants(view, groups)

    for number, (kind, row) in enumerate(zip(requests.kinds, requests.rows, strict=True)):
        left = n_diff - len(state.granted)
        if left < 1:
            excluded.rest(requests.kinds[number:], requests.rows[number:], state.granted)
            break
        if kind == COLLAPSE:
            low = int(candidates.group_at[row])
            high = low + int(candidates.group_count[row])
            if state.intact(low, high):  # else it is part of a pair, or a member was expanded
                state.collapse(row, low, high, reason)
            continue

        at = int(candidates.expand_at[row])
        if state.collapsed and state.covered(at):
            excluded.add(EXPAND, row, Reason.BUDGET)
        elif state.free_slots > 0:
            state.expand(row, at, reason)
        else:
            rejection = state.swap(row, at, float(candidates.expand_score[row]), left)
            if rejection != OPEN:
                excluded.add(EXPAND, row, rejection)
    return Decision(_as_actions(view, state.granted), rejections(view, excluded))


def _as_actions(view: AllocatorView, taken: list[tuple[int, int, int]]) -> Actions:
    candidates, size = view.candidates, view.block_size
    actions = np.empty(len(taken), ACTION_DTYPE)
    for at, (kind, row, reason) in enumerate(taken):
        if kind == EXPAND:
            where = candidates.expand_at[row]
            level, index = view.levels[where], view.index[where]
            actions[at] = (
                kind,
                level,
                index,
                candidates.expand_score[row],
                size - 1,
                False,
                reason,
            )
        else:
            level, index = candidates.group_level[row], candidates.group_index[row]
            actions[at] = (kind, level, index, candidates.group_score[row], 1 - size, False, reason)
    return actions
