"""What a source can ask of a session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["AwaitTurn", "Decode", "Event", "Ingest", "Mark", "Plant", "Question", "Tokenizer"]

Tokens = np.ndarray
"""uint32 [n] token ids."""


class Tokenizer(Protocol):
    """What sources need of a tokenizer."""

    def encode(self, text: str) -> Tokens:
        """Token ids of a piece of text, nothing added; uint32 [n]."""
        ...

    def turn(self, text: str) -> Tokens:
        """Token ids of a question or turn up to where the reply begins; uint32 [n]."""
        ...


@dataclass(frozen=True, slots=True)
class Ingest:
    """Take these tokens into the history."""

    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Plant:
    """Take these tokens in and mark where they lie."""

    name: str
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Question:
    """Take the question in, refocus with the limits of questions, decode an answer.

    ``answer`` is what a right answer starts with; empty if nobody checks.
    """

    tokens: Tokens
    about: str
    answer: str
    limit: int
    stop: str


@dataclass(frozen=True, slots=True)
class Decode:
    """Decode up to ``limit`` tokens, or until the decoded text holds ``stop``.

    An answer to a question has ``about`` or ``answer`` set; ``prefix`` is what an interrupted run
    had decoded of it already.
    """

    limit: int
    stop: str = ""
    about: str = ""
    answer: str = ""
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """Put a marker in the trace."""

    text: str


@dataclass(frozen=True, slots=True)
class AwaitTurn:
    """Wait for a line from a person, take it in as a turn, decode a reply."""

    limit: int
    stop: str


Event = Ingest | Plant | Question | Decode | Mark | AwaitTurn
Events = Iterator[Event]
