"""The interface between focus and allocators: an allocator's input and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from megacontext.core.focus.actions import F32, I8, I64, Actions
from megacontext.core.focus.constraints import Candidates
from megacontext.traces.errors import ConfigError

__all__ = ["MAX_COOLDOWN", "Allocator", "AllocatorView", "Decision", "Limits"]

MAX_COOLDOWN = 64
"""Largest ``cooldown_steps``; bounds the memory of recent changes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one refocus; a refocus that a question triggers may have its own.

    Args:
        n_diff: voluntary actions a round.
        tau_expand: only gists that score above it may expand.
        tau_collapse: groups that score below its negative may collapse.
        cooldown_steps: refocuses before a node may change back, 0..64.
        rounds: rounds a refocus, at least 1.
        reopen: nodes that were collapsed before this refocus may be expanded in it, in spite of
            cooldown and re-arming. Collapses keep their cooldown, and no node changes twice within
            the refocus.
        keep_newest: voluntary actions do not collapse raw blocks among so many newest ones; forced
            collapses do only if no other group is open.
        headroom: entries, beyond those of one block, that forced collapses free if open groups
            allow it.
    """

    n_diff: int = 4
    tau_expand: float = 0.20
    tau_collapse: float = 0.20
    cooldown_steps: int = 2
    rounds: int = 3
    reopen: bool = False
    keep_newest: int = 0
    headroom: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("n_diff", 0, 1 << 20),
            ("tau_expand", 0, 1),
            ("tau_collapse", 0, 1),
            ("cooldown_steps", 0, MAX_COOLDOWN),
            ("rounds", 1, 255),
            ("keep_newest", 0, 1 << 20),
            ("headroom", 0, 1 << 32),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"focus.{name}: {value} is outside {low}..{high}.")

    @property
    def margin(self) -> float:
        """Minimum gain of a swap: the larger threshold. So noise that is too small for a single
        action cannot exchange two nodes of equal score."""
        return max(self.tau_expand, self.tau_collapse)


@dataclass(frozen=True, slots=True)
class AllocatorView:
    """State, scores and constraints of one round; arrays are read-only, oldest first."""

    levels: I8
    index: I64
    starts: I64
    scores: F32
    candidates: Candidates
    limits: Limits
    free_slots: int  # expansions that fit and still leave the headroom
    n_tokens: int
    block_size: int
    max_levels: int
    step: int
    round: int
    seed: int


@dataclass(frozen=True, slots=True)
class Decision:
    """``actions`` (ACTION_DTYPE) in order of application; ``rejected`` (REJECTED_DTYPE), best
    first, at most 32."""

    actions: Actions
    rejected: Actions


class Allocator(Protocol):
    """One policy: state + scores + constraints -> actions with reasons.

    It may expand and collapse only candidates whose reason is ``OPEN``. With that, arbitrary
    fixed scores settle: an open expand scores above ``tau_expand`` and is armed, expanding
    disarms it, and a fixed score never arms it again while it stays known. See
    :mod:`megacontext.core.focus.hysteresis` for the bound, and for what ``limits.reopen`` adds.
    """

    @property
    def name(self) -> str:
        """Its kind, as configs and traces name it."""
        ...

    def propose(self, view: AllocatorView) -> Decision:
        """At most ``view.limits.n_diff`` actions that are legal in order."""
        ...
