"""A checked round as a row of the trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from megacontext.core.focus import Focus, Limits, RoundResult
from megacontext.traces.row import TraceRow
from megacontext.traces.schema import Trigger

__all__ = ["ReplayedRound", "make_row", "replay", "word"]

_LETTERS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "ch", "sh")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ou", "y")
_NS_PER_STEP = 1_000_000


class _Tokens(Protocol):
    def tokens(self, start: int, stop: int) -> np.ndarray: ...


@dataclass(slots=True)
class ReplayedRound:
    """What a resume reads of a round: a trace row without what only people read."""

    step: int
    round: int
    history_tokens: int
    levels: np.ndarray
    scores: np.ndarray | None
    actions: np.ndarray
    w_max: int
    trigger: Trigger

    @classmethod
    def of(cls, result: RoundResult) -> ReplayedRound:
        return cls(
            result.step,
            result.round,
            result.n_tokens,
            result.levels,
            result.scores,
            result.actions,
            result.w_max,
            result.trigger,
        )


def replay(rounds: list[ReplayedRound], focus: Focus, asked: Limits) -> None:
    """Make ``focus`` what it was after ``rounds``; those of a question had the limits ``asked``.

    A question's own threshold re-arms by that threshold.
    """
    questions = {row.step for row in rounds if row.trigger == Trigger.QUESTION}
    focus.rebuild(rounds, lambda row: asked if row.step in questions else focus.limits)


def word(token: int) -> str:
    """A pronounceable piece of text for a token id, so that an inspector has something to show."""
    first, second = token % 128, token // 128
    text = _LETTERS[first % 16] + _VOWELS[first // 16]
    while second:
        text += _LETTERS[second % 16] + _VOWELS[second // 16 % 8]
        second //= 128
    return " " + text


def make_row(
    result: RoundResult,
    stream: _Tokens,
    known_tokens: int,
    appended: list[int],
    marker: str | None,
) -> TraceRow:
    """The row of ``result``; the history from ``known_tokens`` on is new in it.

    The clock column counts refocuses, so that equal runs give equal bytes.
    """
    new = stream.tokens(known_tokens, result.n_tokens)

    return TraceRow(
        step=result.step,
        round=result.round,
        t_ns=(result.step * 16 + result.round) * _NS_PER_STEP,
        history_tokens=result.n_tokens,
        tail_tokens=result.tail_tokens,
        new_tokens=new,
        new_text=[word(token) for token in new.tolist()],
        new_nll=np.full(new.size, np.nan, np.float32),
        appended_levels=np.array(appended, np.int8),
        levels=result.levels,
        scores=result.scores,
        actions=result.actions,
        rejected=result.rejected,
        budget_used=result.budget_used,
        w_max=result.w_max,
        marker=marker,
        trigger=int(result.trigger),
    )
