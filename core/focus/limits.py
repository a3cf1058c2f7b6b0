"""The limits of a refocus, by what triggered it."""

from __future__ import annotations

from dataclasses import replace

from megacontext.core.config import FocusConfig
from megacontext.core.focus.view import Limits
from megacontext.traces.schema import CLOSE_LOOKS, Trigger

__all__ = ["USER_TRIGGERS", "limits_for"]

USER_TRIGGERS = frozenset({Trigger.QUESTION, Trigger.TURN_END})
"""A person or script asks for something new. A surprisal comes from the run itself; if it could
reopen, it would expand again and again what the run keeps collapsing."""


def limits_for(focus: FocusConfig, trigger: Trigger, chunk: int = 0) -> Limits:
    """The limits of a refocus that ``trigger`` brought.

    Questions, turn ends and surprisals have their own limits. Questions, turn ends and echoes may
    also expand what was collapsed just before, because each of them is new evidence. Between two
    chunks of bulk reading nothing moves by choice, and room for the next chunk is made.

    Args:
        focus: the configured limits.
        trigger: of the refocus.
        chunk: ``ingest.chunk``, in tokens.
    """
    if trigger == Trigger.BULK:
        plain = limits_for(focus, Trigger.BLOCK_CLOSED)
        return replace(plain, n_diff=0, rounds=1, headroom=chunk + focus.lag)
    separate, echo = trigger in CLOSE_LOOKS, trigger == Trigger.ECHO
    sizes = focus.question if separate or echo else focus
    tau_expand = focus.question.tau_expand if separate else None

    return Limits(
        n_diff=sizes.n_diff,
        tau_expand=focus.tau_expand if tau_expand is None else tau_expand,
        tau_collapse=focus.tau_collapse,
        cooldown_steps=focus.cooldown_steps,
        rounds=sizes.rounds,
        reopen=focus.question.reopen and (trigger in USER_TRIGGERS or echo),
        keep_newest=0 if separate or echo else focus.keep_newest,
        headroom=focus.lag,  # the window holds so many tokens beside what the edit removes
    )
