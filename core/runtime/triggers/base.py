"""What a trigger is: it looks at coming tokens and says where a refocus is due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from megacontext.core.focus.actions import F32
from megacontext.core.tree.spec import U32
from megacontext.traces.schema import Trigger

__all__ = ["ScoreModifier", "TriggerRule", "first_trigger"]


class TriggerRule(Protocol):
    """Looks at the tokens that come next and says where a refocus is due."""

    @property
    def trigger(self) -> Trigger:
        """What the refocus is recorded as."""
        ...

    def first(self, tokens: U32, since: int) -> int | None:
        """Number of tokens up to and with the first that calls for a refocus, or None.

        Args:
            tokens: uint32 [t], the next tokens; a rule sees every token once.
            since: tokens since the last refocus.
        """
        ...


class ScoreModifier(Protocol):
    """Changes the lens's scores before the allocator gets them."""

    def modify(self, scores: F32, trigger: Trigger) -> F32:
        """Scores F32[n] of the frontier in a refocus that ``trigger`` brought."""
        ...


def first_trigger(
    rules: Sequence[TriggerRule], tokens: U32, since: int
) -> tuple[int, Trigger | None]:
    """How many of the tokens come before the next refocus, and what triggers it, if anything.

    A later rule wins only if it calls for a refocus earlier in the text.
    """
    count, trigger = len(tokens), None
    for rule in rules:
        hit = rule.first(tokens[:count], since)
        if hit is not None and (hit < count or trigger is None):
            count, trigger = hit, rule.trigger
    return count, trigger
