"""Forced collapses: what must go so that the next block fits, whatever the scores say."""

from __future__ import annotations

import numpy as np

from megacontext.core.focus.actions import ACTION_DTYPE, COLLAPSE, I64, Actions, Bools
from megacontext.core.focus.constraints import OPEN, TAKEN, Candidates, order_key
from megacontext.traces.schema import Reason

__all__ = ["choose_forced", "take"]


def choose_forced(found: Candidates, count: int, kept: Bools | None = None) -> tuple[I64, bool]:
    """Rows of up to ``count`` groups to collapse: lowest score first, oldest first.

    Every collapse frees K - 1 entries, so the lowest score is the lowest score per entry freed.
    Groups in ``kept`` bool[g] are taken only when no other is open, groups in cooldown only when
    none is (second value True), protected ones never. Fewer rows than asked mean that the groups
    above them must be found first.
    """
    is_open = found.group_reason == OPEN
    if kept is not None and (is_open & ~kept).any():
        is_open &= ~kept
    rows = np.flatnonzero(is_open)
    override = len(rows) == 0
    if override:
        rows = np.flatnonzero(found.group_reason == Reason.COOLDOWN)
    keys = order_key(found.group_score[rows], found.group_at[rows])
    return rows[np.argsort(keys)[:count]], override


def take(
    found: Candidates, rows: I64, override: bool, block_size: int, over_budget: int
) -> Actions:
    """The actions for ``rows``, which no longer are candidates afterwards.

    Args:
        over_budget: entries by which a budget cut left the frontier too large; the collapses
            that bring it back say ``BUDGET_CUT``.
    """
    actions = np.empty(len(rows), ACTION_DTYPE)
    actions["kind"] = COLLAPSE
    actions["level"] = found.group_level[rows]
    actions["index"] = found.group_index[rows]
    actions["score"] = found.group_score[rows]
    actions["cost"] = 1 - block_size
    actions["forced"] = True
    freed_before = np.arange(len(rows)) * (block_size - 1)
    cut = freed_before < over_budget
    actions["reason"] = (
        Reason.FORCED_OVERRIDE if override else np.where(cut, Reason.BUDGET_CUT, Reason.HEADROOM)
    )
    found.group_reason[rows] = TAKEN
    for row in rows.tolist():
        low = int(found.group_at[row])
        inside = (found.expand_at >= low) & (found.expand_at < low + int(found.group_count[row]))
        found.expand_reason[inside] = Reason.BUDGET
    return actions
