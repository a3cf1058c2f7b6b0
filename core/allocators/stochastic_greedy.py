"""Greedy with random draws: requests are drawn from the strongest ones by temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.core.allocators.grant import (
    Requests,
    best_expand_rows,
    by_abs_score,
    cheapest_groups,
    grant,
)
from megacontext.core.allocators.rejections import RuledOut
from megacontext.core.focus.actions import EXPAND
from megacontext.core.focus.view import AllocatorView, Decision
from megacontext.core.rng import generator
from megacontext.traces.errors import ConfigError
from megacontext.traces.schema import MAX_REJECTED, Reason

__all__ = ["StochasticGreedy"]


@dataclass(frozen=True)
class StochasticGreedy:
    """Draws the order of the ``top_k`` strongest requests without replacement.

    The chance of the next one is proportional to exp(strength / temperature), drawn by adding
    Gumbel noise and sorting (Kool et al., "Stochastic beams and where to find them", ICML 2019).
    Candidates below the top k wait for another round (``N_DIFF``). The draw depends on the seed,
    the step and the round alone.

    Settles as :class:`~megacontext.core.allocators.greedy.Greedy` does: chance only changes the
    order of open candidates, and each expand still disarms its node.

    Args:
        temperature: in score units, > 0; towards 0 it becomes greedy.
        top_k: requests that take part in the draw, >= 1.
    """

    temperature: float = 0.1
    top_k: int = 16
    name: str = "stochastic_greedy"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"allocator.temperature: {self.temperature} must be above 0.")
        if self.top_k < 1:
            raise ConfigError(f"allocator.top_k: {self.top_k} must be at least 1.")

    def propose(self, view: AllocatorView) -> Decision:
        """See :class:`~megacontext.core.focus.view.Allocator`."""
        limits, candidates = view.limits, view.candidates
        expand_rows = best_expand_rows(view, self.top_k + MAX_REJECTED)
        groups = cheapest_groups(view, 2 * limits.n_diff + self.top_k + MAX_REJECTED)
        low = candidates.group_score[groups] < np.float32(-limits.tau_collapse)
        requests = by_abs_score(view, expand_rows, groups[low])

        # The strongest requests take part in the draw.
        kinds, rows = np.array(requests.kinds[: self.top_k]), np.array(requests.rows[: self.top_k])
        if len(rows) == 0:
            return grant(view, requests, groups, Reason.SAMPLED)
        is_expand = kinds == EXPAND
        abs_score = np.empty(len(rows))
        abs_score[is_expand] = candidates.expand_score[rows[is_expand]]
        abs_score[~is_expand] = -candidates.group_score[rows[~is_expand]]

        # Gumbel noise and a sort draw without replacement (Kool et al., 2019).
        noise = generator(view.seed, "allocator", view.step, view.round).gumbel(size=len(rows))
        order = np.argsort(-(abs_score / self.temperature + noise), kind="stable")
        sampled = Requests(kinds[order].tolist(), rows[order].tolist())

        # The rest is ruled out.
        excluded = RuledOut()
        excluded.rest(requests.kinds[self.top_k :], requests.rows[self.top_k :], [])
        return grant(view, sampled, groups, Reason.SAMPLED, excluded)
