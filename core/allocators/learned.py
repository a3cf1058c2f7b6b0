"""A policy network decides; what it may do stays with the constraints."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from megacontext.core.allocators.grant import Requests, cheapest_groups, grant
from megacontext.core.allocators.greedy import Greedy
from megacontext.core.allocators.policy import FEATURES, MlpPolicy
from megacontext.core.focus.actions import COLLAPSE, EXPAND, F32, I64
from megacontext.core.focus.constraints import OPEN
from megacontext.core.focus.view import AllocatorView, Decision
from megacontext.traces.errors import ConfigError
from megacontext.traces.schema import MAX_REJECTED, Reason

_LOG = logging.getLogger(__name__)

__all__ = ["Learned", "Policy", "policy_features"]


class Policy(Protocol):
    """Any network behind numpy arrays."""

    def act(self, features: F32) -> F32:
        """Preferences F32[n, 2] (expand, collapse the group of this entry) for features F32[n, F]
        of the frontier; what is at most 0 is not wanted."""
        ...


def policy_features(view: AllocatorView) -> F32:
    """F32[n, 6]: score, level and span width relative to the coarsest, log distance to the
    cursor, whether raw, expansions that fit (tanh)."""
    levels = view.levels.astype(np.float32)
    size = np.float32(view.block_size)
    distance = np.log2(1 + (view.n_tokens - view.starts) / size) / 32
    features = np.empty((len(levels), len(FEATURES)), np.float32)
    features[:, 0] = view.scores
    features[:, 1] = levels / view.max_levels
    features[:, 2] = size ** (np.maximum(levels, 1) - view.max_levels)
    features[:, 3] = distance
    features[:, 4] = levels == 0
    features[:, 5] = np.tanh(view.free_slots / 4)
    return features


@dataclass
class Learned:
    """Takes the policy's preferred actions, strongest first, if all of them are legal.

    If one of its ``n_diff`` strongest preferences is no open candidate (a raw block to expand, an
    incomplete group, a node in cooldown, not armed or not above ``tau_expand``), or its output
    is not finite or of the wrong shape, greedy decides this round and ``fallbacks`` counts it;
    the first time is a warning in the log.

    It settles for fixed scores even if the policy does not: expands stay limited to open
    candidates, each of which it disarms.

    Args:
        path: folder with ``policy.safetensors`` and ``policy.json``; there is no default.
        policy: a policy object instead of a path.

    Raises:
        ConfigError: neither or both are given, or the files do not fit.
    """

    path: str | None = None
    policy: Policy | None = None
    name: str = "learned"
    fallbacks: int = 0
    _greedy: Greedy = field(default_factory=Greedy, repr=False)

    def __post_init__(self) -> None:
        if (self.path is None) == (self.policy is None):
            raise ConfigError(
                "allocator.path: the learned allocator needs the folder of a trained policy "
                "(policy.safetensors and policy.json); set it or choose another allocator.kind."
            )
        if self.path is not None:
            self.policy = MlpPolicy.load(Path(self.path))

    def propose(self, view: AllocatorView) -> Decision:
        """See :class:`~megacontext.core.focus.view.Allocator`."""
        assert self.policy is not None  # set in __post_init__
        count = len(view.levels)
        preferences = np.asarray(self.policy.act(policy_features(view)), np.float32)
        if preferences.shape != (count, 2) or not np.isfinite(preferences).all():
            return self._fall_back(view)
        requests, open_of = self._requests(view, preferences)
        if not all(open_of):
            return self._fall_back(view)
        groups = cheapest_groups(view, 2 * view.limits.n_diff + MAX_REJECTED)
        return grant(view, requests, groups, Reason.POLICY)

    def _requests(self, view: AllocatorView, preferences: F32) -> tuple[Requests, list[bool]]:
        """The strongest preferences as requests, and for each whether it is an open candidate."""
        candidates, limits = view.candidates, view.limits
        count = len(view.levels)

        # Candidate rows by frontier position, -1 for none.
        expand_row = np.full(count, -1, np.int64)
        open_e = np.flatnonzero(candidates.expand_reason == OPEN)
        expand_row[candidates.expand_at[open_e]] = open_e
        group_row = np.full(count, -1, np.int64)
        open_g = np.flatnonzero(candidates.group_reason == OPEN)
        for size in (1, view.block_size):
            rows = open_g[candidates.group_count[open_g] == size]
            group_row[candidates.group_at[rows][:, None] + np.arange(size)] = rows[:, None]

        # The strongest preferences above 0.
        flat = np.concatenate([preferences[:, 0], preferences[:, 1]])
        expand_rows: I64 = np.argsort(-flat, kind="stable")[: limits.n_diff]
        expand_rows = expand_rows[flat[expand_rows] > 0]
        kinds = np.where(expand_rows < count, EXPAND, COLLAPSE)
        at = expand_rows % max(count, 1)
        rows = np.where(kinds == EXPAND, expand_row[at], group_row[at])
        return Requests(kinds.tolist(), rows.tolist()), (rows >= 0).tolist()

    def _fall_back(self, view: AllocatorView) -> Decision:
        self.fallbacks += 1
        if self.fallbacks == 1:
            _LOG.warning("An action of the learned allocator was illegal; greedy took over.")
        return self._greedy.propose(view)
