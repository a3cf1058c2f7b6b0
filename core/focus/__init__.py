"""Frontier, working context, plans, constraints and refocus rounds."""

from megacontext.core.focus.actions import ACTION_DTYPE, REJECTED_DTYPE, make_actions
from megacontext.core.focus.build import ContextShape, make_focus
from megacontext.core.focus.focus import Focus, RecordedRound, RoundResult, clean_scores
from megacontext.core.focus.plan import Frontier, Splice
from megacontext.core.focus.view import Allocator, AllocatorView, Decision, Limits
from megacontext.core.focus.working_context import WorkingContext, smallest_w_max

__all__ = [
    "ACTION_DTYPE",
    "REJECTED_DTYPE",
    "Allocator",
    "AllocatorView",
    "ContextShape",
    "Decision",
    "Focus",
    "Frontier",
    "Limits",
    "RecordedRound",
    "RoundResult",
    "Splice",
    "WorkingContext",
    "clean_scores",
    "make_actions",
    "make_focus",
    "smallest_w_max",
]
