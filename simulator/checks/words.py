"""Actions and choices in words, for messages."""

from __future__ import annotations

from megacontext.simulator.checks.policy import Choice
from megacontext.traces.schema import ActionKind, Reason

__all__ = ["REASONS", "Action", "in_words", "words"]

Action = tuple[int, int, int, float, int, bool, int]
"""(kind, level, index, score, cost, forced, reason)."""

REASONS = {int(reason): reason.name.lower() for reason in Reason}
_EXPAND, _COLLAPSE = int(ActionKind.EXPAND), int(ActionKind.COLLAPSE)


def words(action: Action | tuple[int, int, int, float, int]) -> str:
    """An action or a rejected candidate in words: what, which gist, at which score, why."""
    kind, level, index, score = action[:4]
    verb = "expand" if kind == _EXPAND else "collapse" if kind == _COLLAPSE else f"kind {kind}"
    reason = REASONS.get(int(action[-1]), f"reason {action[-1]}")
    return f"{verb} ({level}, {index}) at {score:.4g} by {reason}"


def in_words(choice: Choice | None) -> str:
    """A choice in words."""
    if choice is None:
        return "nothing"
    kind, level, index, reason = choice
    return f"{'expand' if kind == _EXPAND else 'collapse'} ({level}, {index}) by {REASONS[reason]}"
