"""Best first: expand above ``tau_expand``, collapse below ``-tau_collapse``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.core.allocators.grant import best_expand_rows, by_abs_score, cheapest_groups, grant
from megacontext.core.focus.view import AllocatorView, Decision
from megacontext.traces.schema import MAX_REJECTED, Reason

__all__ = ["Greedy"]


@dataclass(frozen=True)
class Greedy:
    """Strongest score first, ties nearest to the cursor; swaps when the budget is full.

    Settles for arbitrary fixed scores: each expand disarms its node (see
    :mod:`megacontext.core.focus.hysteresis`), and collapses only undo expands or use up original
    nodes, so finitely many actions are ever taken; a round without any is a fixed point once
    cooldowns have run out.
    """

    name: str = "greedy"

    def propose(self, view: AllocatorView) -> Decision:
        """See :class:`~megacontext.core.focus.view.Allocator`."""
        limits = view.limits
        expand_rows = best_expand_rows(view, limits.n_diff + MAX_REJECTED)
        groups = cheapest_groups(view, 2 * limits.n_diff + MAX_REJECTED)
        low = view.candidates.group_score[groups] < np.float32(-limits.tau_collapse)
        return grant(
            view,
            by_abs_score(view, expand_rows, groups[low]),
            groups,
            Reason.SCORE,
        )
