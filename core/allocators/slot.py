"""Competition for detail: a softmax over the window hands out a fixed number of slots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.core.allocators.grant import by_abs_score, cheapest_groups, first_by, grant
from megacontext.core.allocators.rejections import RuledOut
from megacontext.core.focus.actions import EXPAND
from megacontext.core.focus.constraints import OPEN
from megacontext.core.focus.view import AllocatorView, Decision
from megacontext.traces.errors import ConfigError
from megacontext.traces.schema import MAX_REJECTED, Reason

__all__ = ["Slot"]


@dataclass(frozen=True)
class Slot:
    """Entries compete for slots as in Slot Attention (Locatello et al., NeurIPS 2020).

    Every expansion that the window holds or can hold is one slot; all S slots are shared out
    by a softmax of the scores over all entries, so the claims sum to S whatever the scores' scale.
    A gist may expand only if its claim reaches ``claim`` slots: with the default of one slot
    at most S entries can hold or want detail, before any budget is looked at. High scores
    everywhere therefore expand nothing, where greedy would swap until its limits stop it.

    Winners are served best first under the thresholds, budget and pairs of greedy, so it
    settles for the same reason: it only considers fewer expands.

    Args:
        temperature: of the softmax, in score units, > 0.
        claim: slots that an entry must win to expand, > 0.
    """

    temperature: float = 0.1
    claim: float = 1.0
    name: str = "slot"

    def __post_init__(self) -> None:
        for name in ("temperature", "claim"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"allocator.{name}: {getattr(self, name)} must be above 0.")

    def propose(self, view: AllocatorView) -> Decision:
        """See :class:`~megacontext.core.focus.view.Allocator`."""
        limits, candidates = view.limits, view.candidates
        groups = cheapest_groups(view, 2 * limits.n_diff + MAX_REJECTED)
        low = candidates.group_score[groups] < np.float32(-limits.tau_collapse)
        rows = np.flatnonzero(candidates.expand_reason == OPEN)
        excluded = RuledOut()
        if len(rows):
            claims = self._claims(view)[candidates.expand_at[rows]]
            granted = claims >= self.claim
            for row in self._best(view, rows[~granted], MAX_REJECTED).tolist():
                excluded.add(EXPAND, row, Reason.COMPETITION)
            rows = self._best(view, rows[granted], limits.n_diff + MAX_REJECTED)
        return grant(
            view,
            by_abs_score(view, rows, groups[low]),
            groups,
            Reason.COMPETITION,
            excluded,
        )

    def _claims(self, view: AllocatorView) -> np.ndarray:
        """F64[n]: slots that each entry wins; they sum to the number of slots."""
        weights = np.exp((view.scores - view.scores.max()) / self.temperature, dtype=np.float64)
        slots = view.free_slots + int(np.count_nonzero(view.levels == 0))
        claims: np.ndarray = weights * (slots / weights.sum())
        return claims

    @staticmethod
    def _best(view: AllocatorView, rows: np.ndarray, count: int) -> np.ndarray:
        candidates = view.candidates
        best = first_by(
            candidates.expand_score[rows], candidates.expand_at[rows], count, highest=True
        )
        chosen: np.ndarray = rows[best]
        return chosen
