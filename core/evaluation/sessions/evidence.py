"""Why an answer was wrong: scores and actions of its question's rounds on the gold blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from megacontext.core.focus import RoundResult
from megacontext.core.focus.actions import EXPAND, F32, I64
from megacontext.traces.schema import Reason

__all__ = ["MISREAD", "NOT_EXPANDED", "NOT_SCORED", "Evidence", "ScoresBlocks", "evidence_of"]

NOT_SCORED = "not scored high"
NOT_EXPANDED = "not expanded"
MISREAD = "expanded and misread"


@runtime_checkable
class ScoresBlocks(Protocol):
    """A lens that also scores every block of the history, independently of the frontier."""

    def block_scores(self) -> F32 | None:
        """F32[blocks] of the last question, or None before the first."""
        ...


@dataclass(frozen=True)
class Evidence:
    """The outcome for the worst gold span: of those that are not raw, the one scored lowest.

    Attributes:
        cause: ``NOT_SCORED``, ``NOT_EXPANDED``, or ``MISREAD`` if all gold was raw.
        reason: why it was not expanded, in words; else empty.
        rank: rank of its best node among the scored gists, from 1; for a lens that scores blocks,
            rank of its best block among all blocks. None if nothing was scored.
        score: the highest score of a node that covers it.
    """

    cause: str
    reason: str
    rank: int | None
    score: float | None


@dataclass
class _Span:
    raw: bool
    rank: int | None = None
    score: float | None = None
    reason: str = ""


def evidence_of(
    refocuses: Sequence[Sequence[RoundResult]],
    gold: I64,
    raw: Sequence[bool],
    tau_expand: float,
    block_size: int,
    blocks: F32 | None = None,
) -> Evidence:
    """The outcome for a question's gold, from the rounds of its refocuses.

    Args:
        refocuses: rounds of every refocus since the question's first token.
        gold: token spans I64[m, 2], at least one.
        raw: for each span, whether all of it was raw when the answer began.
        tau_expand: the threshold for expansions.
        blocks: F32[blocks], the lens's score of every block, for a :class:`ScoresBlocks`.
    """
    spans = [_Span(bool(flag)) for flag in raw]
    for rounds in refocuses:
        for result in rounds:
            _read_round(result, gold, spans, block_size)
    if refocuses and refocuses[-1]:
        _read_refusals(refocuses[-1][-1], gold, spans, block_size)
    if blocks is not None:
        for span, (start, stop) in zip(spans, gold, strict=True):
            in_span = blocks[start // block_size : -(-stop // block_size)]
            span.rank = 1 + int((blocks > in_span.max()).sum()) if len(in_span) else None
    left = [span for span in spans if not span.raw]
    if not left:
        worst = max(spans, key=lambda span: span.rank or 0)
        return Evidence(MISREAD, "", worst.rank, worst.score)
    worst = min(left, key=lambda span: -2.0 if span.score is None else span.score)
    scored = worst.score is not None and worst.score > tau_expand
    cause = NOT_EXPANDED if scored else NOT_SCORED
    return Evidence(cause, worst.reason if scored else "", worst.rank, worst.score)


def _starts(result: RoundResult, block_size: int) -> I64:
    """I64[n + 1]: first tokens of the scored nodes, and the end of the last one."""
    lengths = np.int64(block_size) ** np.maximum(result.levels, 1).astype(np.int64)
    return np.concatenate([[0], np.cumsum(lengths)])


def _read_round(result: RoundResult, gold: I64, spans: list[_Span], block_size: int) -> None:
    """Ranks and scores of the gists over each span."""
    if result.scores is None or not len(result.levels):
        return
    starts = _starts(result, block_size)
    gists = result.levels > 0
    scores = result.scores.astype(np.float32)
    for span, (start, stop) in zip(spans, gold, strict=True):
        first = int(np.searchsorted(starts, start, side="right")) - 1
        last = int(np.searchsorted(starts, stop, side="left"))
        in_span = scores[first:last][gists[first:last]]
        if not len(in_span):
            continue
        best = float(in_span.max())
        rank = 1 + int((scores[gists] > best).sum())
        span.rank = rank if span.rank is None else min(span.rank, rank)
        span.score = best if span.score is None else max(span.score, best)


def _read_refusals(result: RoundResult, gold: I64, spans: list[_Span], block_size: int) -> None:
    """Sets the reason why the last round did not expand the gists over each span."""
    refused = [row for row in result.rejected if row["kind"] == EXPAND]
    for span, (start, stop) in zip(spans, gold, strict=True):
        if span.raw:
            continue
        span.reason = "no candidate" if result.settled else "rounds used up"
        for row in refused:
            width = block_size ** int(row["level"])
            begin = int(row["index"]) * width
            if begin < stop and begin + width > start:
                span.reason = Reason(int(row["reason"])).name.lower().replace("_", " ")
                break
