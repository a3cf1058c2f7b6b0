"""What the checker of a refocus is told: the limits in force, and what one round showed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from megacontext.core.focus import Limits
from megacontext.simulator.checks.words import Action

__all__ = ["Rejected", "RoundSeen", "Rules", "rules_of"]

Rejected = tuple[int, int, int, float, int]
"""(kind, level, index, score, reason)."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits in force; units as in the config."""

    n_diff: int
    tau_expand: float
    tau_collapse: float
    cooldown_steps: int
    rounds: int
    protected_blocks: int
    reopen: bool = False
    keep_newest: int = 0
    greedy: bool = False  # the allocator is the one that the reference policy knows whole


@lru_cache(maxsize=64)
def rules_of(limits: Limits, protected_blocks: int, greedy: bool) -> Rules:
    """``limits`` in force over ``protected_blocks``, with the allocator greedy or another."""
    return Rules(
        limits.n_diff,
        limits.tau_expand,
        limits.tau_collapse,
        limits.cooldown_steps,
        limits.rounds,
        protected_blocks,
        limits.reopen,
        limits.keep_newest,
        greedy,
    )


@dataclass(slots=True)
class RoundSeen:
    """What one round showed to the world.

    Args:
        scored_levels: I8[n], the frontier that was scored.
        lens_scores: what the lens said, whatever that was.
        scores: F16[n], what the allocator is said to have got.
        actions: (kind, level, index, score, cost, forced, reason) in order.
        rejected: REJECTED_DTYPE.
        levels, index, starts: the working context after the round.
        budget_used, w_max: entries, as reported.
    """

    scored_levels: np.ndarray
    lens_scores: np.ndarray
    scores: np.ndarray
    actions: list[Action]
    rejected: np.ndarray
    levels: np.ndarray
    index: np.ndarray
    starts: np.ndarray
    budget_used: int
    w_max: int
