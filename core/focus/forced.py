"""Forced collapses: what is collapsed so that the next block fits, whatever the scores are."""

from __future__ import annotations

import numpy as np

from megacontext.core.focus.actions import ACTION_DTYPE, COLLAPSE, I64, Actions, Bools
from megacontext.core.focus.constraints import OPEN, TAKEN, Candidates, order_key
from megacontext.traces.schema import Reason

__all__ = ["choose_forced", "take"]


def choose_forced(
    candidates: Candidates, count: int, keep_mask: Bools | None = None
) -> tuple[I64, bool]:
    """Rows of up to ``count`` groups to collapse: lowest score first, oldest first.

    Every collapse frees K - 1 entries, so the lowest score is the lowest score per entry freed.
    Groups in ``keep_mask`` bool[g] are collapsed only when no other is open, groups in cooldown
    only when none is (second value True), protected ones never. Fewer rows than asked for mean that
    the groups of the next level must be computed first.
    """
    is_open = candidates.group_reason == OPEN
    if keep_mask is not None and (is_open & ~keep_mask).any():
        is_open &= ~keep_mask
    rows = np.flatnonzero(is_open)
    override = len(rows) == 0
    if override:
        rows = np.flatnonzero(candidates.group_reason == Reason.COOLDOWN)
    keys = order_key(candidates.group_score[rows], candidates.group_at[rows])
    return rows[np.argsort(keys)[:count]], override


def take(
    candidates: Candidates, rows: I64, override: bool, block_size: int, over_budget: int
) -> Actions:
    """The actions for ``rows``, which are no candidates afterwards.

    Args:
        over_budget: entries by which a budget cut left the frontier too large; the collapses
            that bring it back say ``BUDGET_CUT``.
    """
    actions = np.empty(len(rows), ACTION_DTYPE)
    actions["kind"] = COLLAPSE
    actions["level"] = candidates.group_level[rows]
    actions["index"] = candidates.group_index[rows]
    actions["score"] = candidates.group_score[rows]
    actions["cost"] = 1 - block_size
    actions["forced"] = True

    freed_before = np.arange(len(rows)) * (block_size - 1)
    cut = freed_before < over_budget
    actions["reason"] = (
        Reason.FORCED_OVERRIDE if override else np.where(cut, Reason.BUDGET_CUT, Reason.HEADROOM)
    )

    # Neither these groups nor their members may move again.
    candidates.group_reason[rows] = TAKEN
    for row in rows.tolist():
        low = int(candidates.group_at[row])
        within = (candidates.expand_at >= low) & (
            candidates.expand_at < low + int(candidates.group_count[row])
        )
        candidates.expand_reason[within] = Reason.BUDGET
    return actions
