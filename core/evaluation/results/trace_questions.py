"""The questions of a recorded run: was the gold there in time, was the answer right?

Everything is read from the trace: needles and questions from its markers, the focus from its
frontiers, the decoded answer from its tokens' text, the expected one from the config of a scripted
source in its metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.core.config import parse_config
from megacontext.core.config.sources import QuestionSegment, ScriptSource
from megacontext.core.evaluation.tasks.recall import is_right
from megacontext.traces.errors import TraceError
from megacontext.traces.metrics import time_to_focus
from megacontext.traces.reader import TraceReader

__all__ = ["AskedInRun", "questions_of"]


@dataclass(frozen=True)
class AskedInRun:
    """One question marker.

    ``refocuses`` counts from the question's own refocus, which is the first: 1 means that it
    brought the gold, 0 that the gold was raw already, None that it never came.
    """

    step: int
    about: str
    refocuses: int | None
    expected: str
    answer: str
    right: bool


def questions_of(path: Path) -> list[AskedInRun]:
    """Every question about a planted fact, in order.

    Raises:
        TraceError: no trace, or one of a run whose script asked no such question.
    """
    with TraceReader.open(path) as reader:
        asked = [
            segment
            for segment in _script(reader.meta.config)
            if isinstance(segment, QuestionSegment)
        ]
        focus = time_to_focus(reader)
        if not asked or len(focus) != len(asked):
            raise TraceError(
                f"{path} holds {len(focus)} questions about planted facts but its script asks "
                f"{len(asked)}; name the finished trace of a scripted run."
            )

        # Each question's answer runs up to the next question.
        rows = [results["row"] for results in focus] + [reader.num_rows]
        results = []
        for segment, elapsed, row, stop in zip(asked, focus, rows[:-1], rows[1:], strict=True):
            answer = _decoded(reader, row, stop, segment.tokens)
            answer = answer.partition(segment.stop)[0] if segment.stop else answer
            later = elapsed["refocuses"]
            reached = 0 if elapsed["already"] else None if later is None else later + 1
            right = is_right(answer, segment.answer)
            results.append(
                AskedInRun(
                    elapsed["step"], segment.about, reached, segment.answer, answer.strip(), right
                )
            )
    return results


def _script(config: str) -> Sequence[Any]:
    source = parse_config(config).source
    return source.segments if isinstance(source, ScriptSource) else ()


def _decoded(reader: TraceReader, first: int, stop: int, limit: int) -> str:
    """Text of the ``limit`` tokens behind row ``first``, up to the row ``stop``.

    A row holds the tokens that came before its refocus, so the answer begins in a later one.
    """
    parts: list[str] = []
    for row in reader.rows(first + 1, stop):
        parts += row.new_text
        if len(parts) >= limit:
            break
    return "".join(parts[:limit])
