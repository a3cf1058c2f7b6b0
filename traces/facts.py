"""What the engine writes into the markers of a trace and reads back from them, as types.

A marker is text that a person reads; several in one row are joined by ``; ``. A resumed run, the
metrics and the inspector go by the facts in it, so each fact has its text in this one place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

__all__ = ["Answered", "Asked", "Planted", "QuestionAbout", "TokenFact", "Typed", "reserved_in"]

_SPAN = r"@(\d{1,15})-(\d{1,15})"


@dataclass(frozen=True, slots=True)
class TokenFact:
    """Something about the tokens from ``start`` up to ``stop``; ``str`` gives its marker."""

    words: ClassVar[str]

    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.words} @{self.start}-{self.stop}"

    @classmethod
    def find(cls, marker: str | None) -> list[Self]:
        """The facts of this type in a marker, in order."""
        spans = re.findall(rf"\b{cls.words} {_SPAN}", marker or "")
        return [cls(int(start), int(stop)) for start, stop in spans]


class Typed(TokenFact):
    """These tokens did not come from the source: a person typed them, or they are a reply."""

    __slots__ = ()
    words = "typed"


class Asked(TokenFact):
    """These tokens are a question."""

    __slots__ = ()
    words = "asked"


class Answered(TokenFact):
    """These tokens are the answer to the question before them."""

    __slots__ = ()
    words = "answered"


@dataclass(frozen=True, slots=True)
class Planted(TokenFact):
    """These tokens are a fact that later questions call ``name``."""

    words: ClassVar[str] = "needle planted"

    name: str = ""

    def __str__(self) -> str:
        return f"{self.words} @{self.start}-{self.stop} {self.name}".strip()

    @classmethod
    def find(cls, marker: str | None) -> list[Self]:
        """See :meth:`TokenFact.find`."""
        matches = re.findall(rf"\b{cls.words} {_SPAN}(?: ([^;]+))?", marker or "")
        return [cls(int(start), int(stop), name) for start, stop, name in matches]


@dataclass(frozen=True, slots=True)
class QuestionAbout:
    """A question of a script about a planted fact: by its name, else by its tokens, else the last.

    Attributes:
        name: of the fact; empty where the question does not say it.
        span: its tokens [start, stop), in traces of other writers.
    """

    name: str = ""
    span: tuple[int, int] | None = None

    def __str__(self) -> str:
        if self.span is not None:
            return f"question @{self.span[0]}-{self.span[1]}"
        return f"question about {self.name}" if self.name else "question"

    @classmethod
    def find(cls, marker: str | None) -> QuestionAbout | None:
        """The first one in a marker."""
        match = re.search(rf"\bquestion(?: {_SPAN}| about ([^;]+))?(?:;|$)", marker or "")
        if match is None:
            return None
        start, stop, name = match.groups()
        return cls(name or "", (int(start), int(stop)) if start else None)


def reserved_in(text: str) -> str | None:
    """The part of a text that reads as a fact about tokens, which only the engine may write."""
    words = "|".join(kind.words for kind in (Typed, Asked, Answered, Planted))
    match = re.search(rf"(?:{words}) @\d+-\d+", text)
    return match.group() if match else None
