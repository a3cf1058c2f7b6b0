"""Questions and answers as values: where they lie in a trace, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "Exchange",
    "Turn",
    "TurnSpan",
    "marker_label",
    "marker_labels",
    "spoken",
    "turn_spans",
    "without_end",
]

_ASKED = re.compile(r"\basked @(\d{1,15})-(\d{1,15})")
_ANSWERED = re.compile(r"\banswered @(\d{1,15})-(\d{1,15})")
_TYPED = re.compile(r"typed @(\d{1,15})-(\d{1,15})")
_CONTROL = re.compile(r"<\|?[a-z_]{1,24}\|?>|\[/?INST\]")
_END = re.compile(r"(?:<\|?[a-z_]{1,24}\|?>|</s>)\s*$")
_SPEAKER = re.compile(r"^\s*(?:user|assistant|system|model)\b\s*\n?")
_FORM = re.compile(r"\s*Question:\s*(.*?)\s*Answer:\s*", re.DOTALL)


@dataclass(frozen=True)
class TurnSpan:
    """Where a question and its answer lie.

    Attributes:
        row: row of the question's refocus.
        start, stop: the question's tokens [start, stop); the answer begins at ``stop``.
        answer_stop, answer_row: where it ends and the row that completes it; -1 before.
    """

    row: int
    start: int
    stop: int
    answer_stop: int = -1
    answer_row: int = -1


@dataclass(frozen=True)
class Exchange:
    """A question to a running engine and its answer so far, token by token.

    Attributes:
        nll: nats per piece, NaN where not evaluated.
    """

    question: str
    pieces: tuple[str, ...] = ()
    nll: tuple[float, ...] = ()
    complete: bool = False


def marker_label(marker: str) -> str:
    """A recorded marker as people read it: without the tokens of questions and answers."""
    words: list[str] = []
    for part in marker.split("; "):
        name = part.partition(" @")[0]
        word = {"asked": "question", "answered": "answer", "typed": "typed"}.get(name, part)
        known = any(w == word or w.startswith(f"{word} ") for w in words)
        if not known:
            words.append(word)
    spoken_of = any(w.startswith(("question", "answer")) for w in words)
    return "; ".join(w for w in words if w != "typed" or not spoken_of)


def marker_labels(markers: Mapping[int, str]) -> dict[int, str]:
    """The labels of all markers by row; where a question's words merely began there is none."""
    spans = {
        span
        for label_text in markers.values()
        for ends in (_ASKED, _ANSWERED)
        for span in ends.findall(label_text)
    }
    labels: dict[int, str] = {}
    for row in sorted(markers):
        parts = [p for p in markers[row].split("; ") if (m := _TYPED.fullmatch(p)) is None
                 or m.groups() not in spans]  # fmt: skip
        if parts:
            labels[row] = marker_label("; ".join(parts))
    return labels


def turn_spans(markers: Mapping[int, str]) -> tuple[TurnSpan, ...]:
    """The questions that ``markers`` (by row) tell of, each with its answer where it has one."""
    turns: list[TurnSpan] = []
    for row in sorted(markers):
        for a, b in _ANSWERED.findall(markers[row]):
            if turns and turns[-1].answer_row < 0 and turns[-1].stop == int(a):
                last = turns[-1]
                turns[-1] = TurnSpan(last.row, last.start, last.stop, int(b), row)
        turns += [TurnSpan(row, int(a), int(b)) for a, b in _ASKED.findall(markers[row])]
    return tuple(turns)


def spoken(text: str) -> str:
    """A question without the form, or the chat format, that it is put into for the model."""
    match = _FORM.fullmatch(text)
    if match:
        return match[1]
    parts = [_SPEAKER.sub("", part).strip() for part in _CONTROL.split(text)]
    return max(parts, key=len) if len(parts) > 1 else text.strip()


def without_end(answer: str) -> str:
    """An answer without the control token that ended it."""
    return _END.sub("", answer)


@dataclass(frozen=True)
class Turn:
    """One question with its answer so far.

    Attributes:
        nll: mean NLL of the answer's tokens in nats, NaN while there are none.
        row: row of the question's refocus, -1 before it has arrived.
        step: that row's step.
        complete: the answer has ended.
    """

    question: str
    answer: str
    nll: float = math.nan
    row: int = -1
    step: int = -1
    complete: bool = False

    @property
    def confidence(self) -> float:
        """Geometric mean of the probabilities of the answer's tokens; NaN without any."""
        return math.exp(-self.nll)
