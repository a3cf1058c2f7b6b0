"""The walk that turns an ordered list of wishes into legal actions and reasons.

Allocators differ in which wishes they have and in what order; budget, pairs, ``n_diff`` and the
list of rejected candidates are the same for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from megacontext.core.focus.actions import (
    ACTION_DTYPE,
    COLLAPSE,
    EXPAND,
    REJECTED_DTYPE,
    I64,
    Actions,
)
from megacontext.core.focus.constraints import OPEN, order_key
from megacontext.core.focus.view import AllocatorView, Decision
from megacontext.traces.schema import MAX_REJECTED, Reason

__all__ = ["Wishes", "best_expands", "by_strength", "cheapest_groups", "walk"]


@dataclass(slots=True)
class Wishes:
    """Candidate rows in order of preference: ``kinds[k]`` is EXPAND (a row of the expand
    candidates) or COLLAPSE (a row of the groups)."""

    kinds: list[int]
    rows: list[int]


def _first(keys: I64, count: int) -> I64:
    """Positions of the ``count`` smallest keys, in order."""
    if len(keys) > 4 * count:
        some = np.argpartition(keys, count)[:count]
        return some[np.argsort(keys[some])]
    return np.argsort(keys)[:count]


def best_expands(view: AllocatorView, count: int) -> I64:
    """Rows of the best open expand candidates, best first, ties nearest to the cursor first."""
    found = view.candidates
    rows = np.flatnonzero(found.expand_reason == OPEN)
    keys = order_key(found.expand_score[rows], found.expand_at[rows])
    return rows[_first(-keys, count)]


def cheapest_groups(view: AllocatorView, count: int) -> I64:
    """Rows of the open groups with the lowest scores, lowest first, ties oldest first."""
    found = view.candidates
    rows = np.flatnonzero(found.group_reason == OPEN)
    keys = order_key(found.group_score[rows], found.group_at[rows])
    return rows[_first(keys, count)]


def by_strength(view: AllocatorView, expands: I64, groups: I64) -> Wishes:
    """Expands and collapses merged by how far their scores are from 0; expands win ties."""
    found = view.candidates
    strength = np.concatenate([found.expand_score[expands], -found.group_score[groups]])
    order = np.argsort(-strength, kind="stable").tolist()
    rows = expands.tolist() + groups.tolist()
    split = len(expands)
    return Wishes([int(at >= split) for at in order], [rows[at] for at in order])


@dataclass(slots=True)
class _Walk:
    view: AllocatorView
    payers: list[int]  # group rows, cheapest first
    room: int
    taken: list[tuple[int, int, int]] = field(default_factory=list)  # kind, row, reason
    rejected: list[tuple[int, int, int]] = field(default_factory=list)
    expanded: list[int] = field(default_factory=list)  # positions
    gone: list[tuple[int, int]] = field(default_factory=list)  # position ranges collapsed

    def covered(self, at: int) -> bool:
        return any(low <= at < high for low, high in self.gone)

    def group_range(self, row: int) -> tuple[int, int]:
        low = int(self.view.candidates.group_at[row])
        return low, low + int(self.view.candidates.group_count[row])

    def group_free(self, row: int) -> bool:
        low, high = self.group_range(row)
        broken = any(low <= at < high for at in self.expanded)
        return not broken and (low, high) not in self.gone

    def collapse(self, row: int, reason: int) -> None:
        self.taken.append((COLLAPSE, row, reason))
        self.gone.append(self.group_range(row))
        self.room += 1

    def expand(self, row: int, reason: int) -> None:
        self.taken.append((EXPAND, row, reason))
        self.expanded.append(int(self.view.candidates.expand_at[row]))
        self.room -= 1

    def payer_for(self, at: int) -> int | None:
        for row in self.payers:
            low, high = self.group_range(row)
            if self.group_free(row) and not low <= at < high:
                return row
        return None


def walk(
    view: AllocatorView,
    wishes: Wishes,
    payers: I64,
    reason: Reason,
    turned_down: list[tuple[int, int, int]] | None = None,
) -> Decision:
    """Grant wishes in order as budget, ``n_diff`` and gains allow.

    An expand without room is paired with the cheapest payer if the gain (score of the gist minus
    score of the group) exceeds ``limits.margin``; the collapse is applied first and the pair
    counts as two actions.

    Args:
        wishes: open candidates only.
        payers: rows of open groups, cheapest first; as many as could be needed.
        reason: what granted single actions say.
        turned_down: (kind, row, reason) of candidates that the policy itself ruled out.
    """
    found, limits = view.candidates, view.limits
    state = _Walk(view, payers.tolist(), view.room)
    for kind, row in zip(wishes.kinds, wishes.rows, strict=True):
        left = limits.n_diff - len(state.taken)
        if kind == COLLAPSE:
            if not state.group_free(row):
                continue  # it paid for an expand, or one of its members was expanded
            if left < 1:
                state.rejected.append((kind, row, Reason.N_DIFF))
            else:
                state.collapse(row, reason)
            continue
        at = int(found.expand_at[row])
        if left < 1:
            state.rejected.append((kind, row, Reason.N_DIFF))
        elif state.covered(at):
            state.rejected.append((kind, row, Reason.BUDGET))
        elif state.room > 0:
            state.expand(row, reason)
        else:
            _swap(state, row, at, left)
    blocked = _blocked(view)
    return Decision(
        _as_actions(view, state.taken),
        _as_rejected(view, state.rejected + (turned_down or []), blocked),
    )


def _swap(state: _Walk, row: int, at: int, left: int) -> None:
    found = state.view.candidates
    payer = state.payer_for(at)
    if payer is None:
        state.rejected.append((EXPAND, row, Reason.BUDGET))
    elif found.expand_score[row] - found.group_score[payer] <= state.view.limits.margin:
        state.rejected.append((EXPAND, row, Reason.GAIN))
    elif left < 2:
        state.rejected.append((EXPAND, row, Reason.N_DIFF))
    else:
        state.collapse(payer, Reason.PAIR)
        state.expand(row, Reason.PAIR)


def _as_actions(view: AllocatorView, taken: list[tuple[int, int, int]]) -> Actions:
    found, size = view.candidates, view.block_size
    actions = np.empty(len(taken), ACTION_DTYPE)
    for at, (kind, row, reason) in enumerate(taken):
        if kind == EXPAND:
            where = found.expand_at[row]
            node = (view.levels[where], view.index[where], found.expand_score[row], size - 1)
        else:
            node = (
                found.group_level[row],
                found.group_index[row],
                found.group_score[row],
                1 - size,
            )
        actions[at] = (kind, *node, False, reason)
    return actions


def _blocked(view: AllocatorView) -> list[tuple[int, int, int]]:
    """The strongest candidates that the constraints forbid, as (kind, row, reason)."""
    found = view.candidates
    most = MAX_REJECTED
    expands = np.flatnonzero(found.expand_reason > OPEN)
    if len(expands) > most:
        keys = order_key(found.expand_score[expands], found.expand_at[expands])
        expands = expands[_first(-keys, most)]
    low = found.group_score < np.float32(-view.limits.tau_collapse)
    groups = np.flatnonzero(low & (found.group_reason > OPEN))
    if len(groups) > most:
        keys = order_key(found.group_score[groups], found.group_at[groups])
        groups = groups[_first(keys, most)]
    return [
        *((EXPAND, row, int(found.expand_reason[row])) for row in expands.tolist()),
        *((COLLAPSE, row, int(found.group_reason[row])) for row in groups.tolist()),
    ]


def _as_rejected(
    view: AllocatorView,
    walked: list[tuple[int, int, int]],
    blocked: list[tuple[int, int, int]],
) -> Actions:
    """Candidates turned down, strongest first, at most 32, with members of broken groups."""
    found = view.candidates
    all_rows = walked + blocked
    kinds = np.array([kind for kind, _, _ in all_rows], np.int8)
    rows = np.array([row for _, row, _ in all_rows], np.int64)
    reasons = np.array([reason for _, _, reason in all_rows], np.int8)
    rejected = np.empty(len(all_rows), REJECTED_DTYPE)
    expand = kinds == EXPAND
    at = found.expand_at[rows[expand]]
    rejected["kind"] = kinds
    rejected["reason"] = reasons
    rejected["level"][expand] = view.levels[at]
    rejected["index"][expand] = view.index[at]
    rejected["score"][expand] = found.expand_score[rows[expand]]
    group = rows[~expand]
    rejected["level"][~expand] = found.group_level[group]
    rejected["index"][~expand] = found.group_index[group]
    rejected["score"][~expand] = found.group_score[group]
    rejected = np.concatenate([rejected, _broken_groups(view)])
    strength = np.abs(rejected["score"].astype(np.float32))
    order = np.argsort(-strength, kind="stable")[:MAX_REJECTED]
    return rejected[order]


def _broken_groups(view: AllocatorView) -> Actions:
    """Parents that low-scoring gists ask for although their siblings are not all there."""
    low = np.flatnonzero((view.scores < np.float32(-view.limits.tau_collapse)) & (view.levels > 0))
    low = low[view.levels[low] < view.max_levels]
    if len(low) > MAX_REJECTED:
        low = low[_first(order_key(view.scores[low], low), 4 * MAX_REJECTED)]
    if len(low) == 0:
        return np.empty(0, REJECTED_DTYPE)
    low.sort()
    found = view.candidates
    # A complete group is recognised by its parent: no other entry has a child of that node.
    size = view.block_size
    parents = view.index[low] // size * (view.max_levels + 1) + view.levels[low] + 1
    whole = found.group_index * (view.max_levels + 1) + found.group_level
    alone = ~np.isin(parents, whole[found.group_count > 1])
    parents, first = np.unique(parents[alone], return_index=True)
    at = low[alone][first]
    rejected = np.empty(len(at), REJECTED_DTYPE)
    rejected["kind"] = COLLAPSE
    rejected["level"] = view.levels[at] + 1
    rejected["index"] = view.index[at] // size
    rejected["score"] = view.scores[at]
    rejected["reason"] = Reason.ILLEGAL
    return rejected
