"""Questions and answers of a run: from the trace's markers, and as they are decoded."""

from __future__ import annotations

import math

import numpy as np

from megacontext.tui.sources.source import Source
from megacontext.tui.state.turns import Exchange, Turn, TurnSpan, spoken, without_end

__all__ = ["Conversation"]


class Conversation:
    """The turns of one source, in order; those of the trace are read once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._read: dict[TurnSpan, Turn] = {}
        self._awaited: int | None = None
        self._shown: Exchange | None = None

    def turns(self) -> tuple[Turn, ...]:
        """Every turn, the one being decoded last."""
        spans = self._source.scalars.turns
        turns = [self._of(span) for span in spans]
        now = self.exchange
        if now is None:
            return tuple(turns)
        question, answer = spoken(now.question), "".join(now.pieces)
        live = Turn(question, answer, _mean(now.nll), complete=now.complete)
        same = bool(turns) and turns[-1].question == live.question
        if same and not turns[-1].complete:  # its question is in the trace, its answer not yet
            last = turns[-1]
            turns[-1] = Turn(
                live.question, live.answer, live.nll, last.row, last.step, live.complete
            )
        elif not (same and live.complete):
            turns.append(live)
        return tuple(turns)

    @property
    def exchange(self) -> Exchange | None:
        """What the engine is being asked or was asked last, None without an engine."""
        control = self._source.control
        return control.exchange() if control is not None else None

    @property
    def streaming(self) -> bool:
        """Whether an answer is on its way; none is once the engine has gone."""
        if not self._source.status().growing:
            return False
        now = self.exchange
        return self._awaited is not None or (now is not None and not now.complete)

    def expect(self) -> None:
        """A question was sent: :meth:`arrived` tells when it is in the trace."""
        self._awaited = len(self._source.scalars.turns)

    def arrived(self) -> TurnSpan | None:
        """The question that was expected, once, when its row is there."""
        spans = self._source.scalars.turns
        if self._awaited is None or len(spans) <= self._awaited:
            return None
        index, self._awaited = self._awaited, None
        return spans[index]

    def changed(self) -> bool:
        """Whether anything was said since the last call."""
        before, self._shown = self._shown, self.exchange
        return self._shown is not before

    def _of(self, span: TurnSpan) -> Turn:
        known = self._read.get(span)
        if known is None:
            question, _ = self._source.pieces(span.start, span.stop)
            answer, nll = self._source.pieces(span.stop, max(span.answer_stop, span.stop))
            known = self._read[span] = Turn(
                spoken("".join(question)),
                without_end("".join(answer)),
                _mean(tuple(nll.tolist())),
                span.row,
                int(self._source.scalars.step[span.row]),
                span.answer_row >= 0,
            )
        return known


def _mean(nll: tuple[float, ...]) -> float:
    values = np.array(nll, np.float64)
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan
