"""What an evaluation asks of a contender that has read some history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from megacontext.core.evaluation.sessions.evidence import Evidence
from megacontext.core.focus.actions import F32
from megacontext.core.tree.spec import U32

__all__ = ["AnswerResult", "ContenderSession"]


@dataclass(frozen=True)
class AnswerResult:
    """An answer, and what was expanded for it.

    Attributes:
        text: the decoded text.
        gold_raw: whether all gold was raw when decoding began; None if the gold is unknown.
        refocuses: number of refocuses from the question's first token until it was; None if it
            never was.
        evidence: what the question's rounds say about the gold; None if the gold is unknown or
            the contender does not refocus.
    """

    text: str
    gold_raw: bool | None
    refocuses: int | None
    evidence: Evidence | None = None


class ContenderSession(Protocol):
    """One contender over one history."""

    def read(self, tokens: U32) -> None:
        """Append more history."""
        ...

    def ask(self, prompt: U32, limit: int, stop: str, reserve: int = 0) -> AnswerResult:
        """A greedy answer of up to ``limit`` tokens.

        Args:
            prompt: uint32 [t], the question.
            stop: text that ends the answer, "" for none.
            reserve: entries to leave free, if :meth:`continue_answer` needs more than ``limit``.
        """
        ...

    def continue_answer(self, limit: int, stop: str) -> str:
        """The next tokens of the answer; "" if it has ended."""
        ...

    def read_question(self, prompt: U32) -> None:
        """A question whose answer is scored next."""
        ...

    def loglikelihood(self, tokens: U32) -> tuple[F32, bool]:
        """NLL F32[t] in nats of the next tokens, and whether each was the most likely one."""
        ...

    def score_tokens(self, tokens: U32) -> F32:
        """NLL F32[t] in nats of the next tokens, read as a session reads them."""
        ...
