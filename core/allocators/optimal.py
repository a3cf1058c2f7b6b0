"""The optimum under the budget within one level of the frontier, approached step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.core.allocators.grant import Requests, best_expand_rows, first_by, grant
from megacontext.core.allocators.rejections import RuledOut
from megacontext.core.focus.actions import COLLAPSE, EXPAND, F32, I64
from megacontext.core.focus.constraints import OPEN
from megacontext.core.focus.view import AllocatorView, Decision
from megacontext.traces.schema import MAX_REJECTED, Reason

__all__ = ["Optimal", "optimum"]


def optimum(view: AllocatorView) -> tuple[I64, I64]:
    """The best ancestor-closed set within one level of the frontier.

    Choose for every frontier node to expand it, to keep it, or (as a whole group) to collapse
    it, such that expansions minus collapses fit into ``view.free_slots``. The utility of an expand
    is the gist's score, that of a collapse is minus the group's score; only open candidates may
    move, a collapse with a score of at least ``-tau_collapse`` must free a slot for an expand, and
    a swap must gain more than ``limits.margin`` (it costs twice as much as a single action).

    The tree DP over groups is exact by sorting. For one group let f(k) be its best utility when
    it uses k units of budget more: f(-1) = -(group score), f(0) = 0, f(k) = sum of its k best
    open members. The group score is the maximum over its members, so the steps of f never
    increase: it is concave. The max-plus convolution of concave functions, which is what the DP
    computes at their common root, is the merge of their steps in sorted order: fill the budget
    with the best expands, then trade the best remaining expand against the cheapest group while
    that gains. A group is never both collapsed and expanded: its members cannot gain more than
    it costs.

    Returns:
        Rows of the expands, best first, and rows of the groups, cheapest first.
    """
    candidates, limits = view.candidates, view.limits

    # Open expands, best first; open groups, cheapest first.
    open_e = np.flatnonzero(candidates.expand_reason == OPEN)
    keep = first_by(
        candidates.expand_score[open_e], candidates.expand_at[open_e], len(open_e), highest=True
    )
    singles = open_e[keep]
    open_g = np.flatnonzero(candidates.group_reason == OPEN)
    keep = first_by(
        candidates.group_score[open_g], candidates.group_at[open_g], len(open_g), highest=False
    )
    groups = open_g[keep]
    gains: F32 = candidates.expand_score[singles]
    costs: F32 = candidates.group_score[groups]

    # Fill the budget, then trade as long as it gains.
    free = int(np.count_nonzero(costs < np.float32(-limits.tau_collapse)))
    free_slots = view.free_slots + free  # groups worth collapsing anyway
    swaps = min(max(0, len(singles) - free_slots), len(groups) - free)
    better = gains[free_slots : free_slots + swaps] - costs[free : free + swaps] > limits.margin
    swaps = int(np.count_nonzero(better))  # gains fall and costs rise, so these come first
    return singles[: free_slots + swaps], groups[: free + swaps]


@dataclass(frozen=True)
class Optimal:
    """Moves toward :func:`optimum` by at most ``n_diff`` actions a round.

    Expands are taken best first, each with the cheapest group of the optimum when there is no
    free slot; once no expand is left, the collapses that are worth it by themselves. A group that
    is not part of the optimum is never touched.

    It settles: it takes only open candidates, an expand disarms its node, and an empty optimum
    proposes nothing.
    """

    name: str = "optimal"

    def propose(self, view: AllocatorView) -> Decision:
        """See :class:`~megacontext.core.focus.view.Allocator`."""
        limits = view.limits
        singles, groups = optimum(view)
        shown = limits.n_diff + MAX_REJECTED
        low = view.candidates.group_score[groups] < np.float32(-limits.tau_collapse)
        collapse_rows = groups[low][:shown].tolist()
        expand_rows = singles[:shown].tolist()
        requests = Requests(
            [EXPAND] * len(expand_rows) + [COLLAPSE] * len(collapse_rows),
            expand_rows + collapse_rows,
        )
        excluded = RuledOut()
        for row in best_expand_rows(view, len(singles) + MAX_REJECTED)[len(singles) :].tolist():
            excluded.add(EXPAND, row, Reason.GAIN)
        return grant(view, requests, groups[: 2 * shown], Reason.OPTIMUM, excluded)
