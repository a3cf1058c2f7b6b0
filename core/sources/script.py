"""The ``script`` source: a scenario of ingest, planted facts, questions and decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from megacontext.core.config.sources import (
    DecodeSegment,
    IngestSegment,
    MarkerSegment,
    PlantSegment,
    QuestionSegment,
    ScriptSource,
    TextSegment,
)
from megacontext.core.markers import check_marker
from megacontext.core.sources.events import (
    Decode,
    Event,
    Ingest,
    Mark,
    Plant,
    Question,
    Tokenizer,
    Tokens,
)
from megacontext.traces.errors import SourceError

__all__ = ["script_events"]


def script_events(
    source: ScriptSource, text: Callable[[], Iterator[Ingest]], tokenizer: Tokenizer
) -> Iterator[Event]:
    """The events of each segment in turn.

    Args:
        source: the scenario.
        text: opens the running text that ``ingest`` segments draw from, each where the last ended.
        tokenizer: for the literal texts.
    """
    # Everything that can be wrong is refused before the first event.
    if not source.segments:
        raise SourceError("source.segments is empty; a script needs at least one segment.")
    for number, segment in enumerate(source.segments):
        if isinstance(segment, (TextSegment, PlantSegment, QuestionSegment)) and not segment.text:
            raise SourceError(
                f"source.segments[{number}].text is empty; write the {segment.kind}'s text."
            )
        if isinstance(segment, MarkerSegment):
            check_marker(segment.text, f"source.segments[{number}].text")
    planted = {s.name for s in source.segments if isinstance(s, PlantSegment)}
    for segment in source.segments:
        if isinstance(segment, QuestionSegment) and segment.about and segment.about not in planted:
            raise SourceError(
                f"A question is about {segment.about!r}, which no plant segment names; "
                f"legal: {', '.join(sorted(planted)) or 'none'}."
            )

    # One event a segment.
    running = _Cursor(text)
    for segment in source.segments:
        match segment:
            case IngestSegment(tokens=count):
                yield Ingest(running.take(count))
            case TextSegment(text=literal):
                yield Ingest(tokenizer.encode(literal))
            case PlantSegment(name=name, text=literal):
                yield Plant(name, tokenizer.encode(literal))
            case QuestionSegment():
                yield Question(
                    tokenizer.turn(segment.text),
                    segment.about,
                    segment.answer,
                    segment.tokens,
                    segment.stop,
                )
            case DecodeSegment(tokens=count):
                yield Decode(count)
            case MarkerSegment(text=mark):
                yield Mark(mark)


class _Cursor:
    """Takes a given number of tokens at a time from a running text."""

    def __init__(self, open_text: Callable[[], Iterator[Ingest]]) -> None:
        self._open = open_text
        self._events: Iterator[Ingest] | None = None
        self._rest: Tokens = np.empty(0, np.uint32)

    def take(self, count: int) -> Tokens:
        if self._events is None:
            self._events = self._open()
        parts, have = [self._rest], len(self._rest)
        while have < count:
            event = next(self._events, None)
            if event is None:
                raise SourceError(
                    f"source.text ends {count - have} tokens before an ingest segment of {count} "
                    f"tokens is done; lower the segment's tokens or use a longer text."
                )
            parts.append(event.tokens)
            have += len(event.tokens)
        combined = np.concatenate(parts)
        self._rest = combined[count:]
        return combined[:count]
