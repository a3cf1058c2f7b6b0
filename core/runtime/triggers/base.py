"""When a refocus runs beside the one at each closed block, and under which limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from megacontext.core.config import FocusConfig, TriggersConfig
from megacontext.core.focus import Limits
from megacontext.core.focus.actions import F32
from megacontext.core.tree.spec import U32
from megacontext.traces.schema import CLOSE_LOOKS, Trigger

__all__ = [
    "ASKED",
    "QuestionMarks",
    "ScoreModifier",
    "Surprisal",
    "TriggerRule",
    "first_trigger",
    "limits_for",
]

ASKED = frozenset({Trigger.QUESTION, Trigger.TURN_END})
"""Someone outside wants something new; a surprise comes from the run itself, and would reopen
again and again what the run keeps folding."""


def limits_for(focus: FocusConfig, trigger: Trigger) -> Limits:
    """The limits of a refocus: questions, turn ends and surprises have their own.

    Questions and turn ends may also reopen what was folded just before, and so may echoes: they
    are new evidence, each of them.
    """
    close, echo = trigger in CLOSE_LOOKS, trigger == Trigger.ECHO
    most = focus.question if close or echo else focus
    own = focus.question.tau_expand if close else None
    return Limits(
        n_diff=most.n_diff,
        tau_expand=focus.tau_expand if own is None else own,
        tau_collapse=focus.tau_collapse,
        cooldown_steps=focus.cooldown_steps,
        rounds=most.rounds,
        reopen=focus.question.reopen and (trigger in ASKED or echo),
        keep_newest=0 if close or echo else focus.keep_newest,
    )


class TriggerRule(Protocol):
    """Looks at tokens that are about to be taken in and says where a refocus is due."""

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


class Surprisal:
    """A decoded token of high NLL triggers a refocus."""

    def __init__(self, config: TriggersConfig) -> None:
        self._threshold = config.surprisal
        self._gap = config.min_gap

    def of(self, nll: float, since: int) -> Trigger | None:
        """The trigger of a token of this NLL (nats), ``since`` tokens after the last refocus."""
        due = 0 < self._threshold < nll and since >= self._gap
        return Trigger.SURPRISAL if due else None


class QuestionMarks:
    """Tokens whose text ends in a question mark, by id."""

    trigger = Trigger.QUESTION

    def __init__(self, pieces: list[str], config: TriggersConfig) -> None:
        """``pieces`` is the text of every token id, in order."""
        self._ends = np.array([p.rstrip().endswith("?") for p in pieces], bool)
        self._enabled = config.question_mark
        self._gap = config.min_gap

    def first(self, tokens: np.ndarray, since: int) -> int | None:
        """Number of tokens up to and with the first question mark that may trigger, or None.

        Args:
            tokens: uint32 [t], the next tokens.
            since: tokens since the last refocus.
        """
        if not self._enabled:
            return None
        hits = np.flatnonzero(self._ends[tokens]) + 1
        hits = hits[hits + since >= self._gap]
        return int(hits[0]) if len(hits) else None
