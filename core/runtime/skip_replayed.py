"""Skips the events of a source that an interrupted run already recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from megacontext.core.model.tokenizer import Tokenizer
from megacontext.core.runtime.script import ScriptAnswer
from megacontext.core.sources import AwaitTurn, Decode, Event, Ingest, Mark, Plant, Question
from megacontext.traces.errors import SourceError

__all__ = ["ReplaySkipper"]


class ReplaySkipper:
    """Skips the part of a source that the recorded history holds.

    Decoded tokens count like ingested ones: where a decode ended follows from its tokens alone.

    Args:
        history: uint32 [N], the recorded history without what a person typed in between.
        positions: int64 [N], the position of each of these tokens in the whole history.
        tokenizer: of the run's model, to see where decoding stopped.
        register_fact: called with (name, start, stop) of each planted fact that is skipped.

    ``answers`` collects the answers that are complete in the history.
    """

    def __init__(
        self,
        history: np.ndarray,
        positions: np.ndarray,
        tokenizer: Tokenizer,
        register_fact: Callable[[str, int, int], None],
    ) -> None:
        self._left = history
        self._positions = positions
        self._tokenizer = tokenizer
        self.answers: list[ScriptAnswer] = []
        self._register_fact = register_fact

    def remaining(self, events: Iterable[Event]) -> Iterator[Event]:
        """The events from where the history ends.

        Raises:
            SourceError: the source gives other tokens than the history holds.
        """
        for event in events:
            if not len(self._left):
                yield event
            else:
                yield from self._cut(event)

    def _cut(self, event: Event) -> Iterator[Event]:
        match event:
            case Ingest(tokens=tokens) | Plant(tokens=tokens):
                if isinstance(event, Plant):
                    start = int(self._positions[len(self._positions) - len(self._left)])
                    self._register_fact(event.name, start, start + len(tokens))
                rest = tokens[self._skip(tokens) :]
                if len(rest):
                    yield Ingest(rest)

            # A question that is complete leaves its answer, or what is missing of it.
            case Question(tokens=tokens):
                done = self._skip(tokens)
                answer = Decode(event.limit, event.stop, event.about or "?", event.answer)
                if done < len(tokens):
                    yield Question(
                        tokens[done:], event.about, event.answer, event.limit, event.stop
                    )
                elif len(self._left):
                    yield from self._cut(answer)
                else:
                    yield answer
            case Decode():
                yield from self._cut_decode(event)
            case AwaitTurn():  # the rest of the history is the conversation
                self._left = self._left[:0]
                yield event
            case Mark():
                pass

    def _skip(self, tokens: np.ndarray) -> int:
        count = min(len(tokens), len(self._left))
        if not np.array_equal(tokens[:count], self._left[:count]):
            raise SourceError(
                "source gives other tokens than the history of the interrupted run; resume with "
                "its config and texts, or start a new run."
            )
        self._left = self._left[count:]
        return count

    def _cut_decode(self, event: Decode) -> Iterator[Event]:
        stream = self._tokenizer.stream()
        text, used = event.prefix, 0
        while used < event.limit and len(self._left):
            token, self._left = int(self._left[0]), self._left[1:]
            finished, piece = token in self._tokenizer.end_ids, stream.push([token])[0]
            text, used = text + ("" if finished else piece), used + 1
            if finished or (event.stop and event.stop in text):
                used = event.limit
        if used < event.limit:
            left = event.limit - used
            yield Decode(left, event.stop, event.about, event.answer, text)
        elif event.about:
            text = text.partition(event.stop)[0] if event.stop else text
            self.answers.append(ScriptAnswer(event.about, event.answer, text))
