"""Contenders that focus: a session with some lens over the history."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from megacontext.core.evaluation.evidence import Evidence, ScoresBlocks, evidence_of
from megacontext.core.evaluation.held import HeldWindow
from megacontext.core.focus import RoundResult, WorkingContext
from megacontext.core.focus.actions import F32, I64
from megacontext.core.lenses import Observation, Oracle
from megacontext.core.lenses.blocks import recency_prior
from megacontext.core.model.window import SyncStats
from megacontext.core.runtime.parts import Parts
from megacontext.core.runtime.recorder import Recorder, TimedRound
from megacontext.core.runtime.session import Session
from megacontext.core.runtime.triggers import limits_for
from megacontext.core.sources import Decode, Ingest, Question
from megacontext.core.tree.spec import U32
from megacontext.traces.schema import Phase, Trigger

__all__ = ["Asked", "FocusedSeat", "GoldLens", "Ledger", "StillLens", "is_raw"]


@dataclass(frozen=True)
class Asked:
    """An answer: its text, whether all gold was raw when decoding began (None: gold unknown),
    how many refocuses after the question's first token that took (None: it never was), and what
    the question's rounds say about the gold (None: gold unknown, or nothing focuses)."""

    text: str
    gold_raw: bool | None
    refocuses: int | None
    evidence: Evidence | None = None


@dataclass
class GoldLens:
    """The oracle with the truth built in: 1 for every node that overlaps ``spans`` I64[m, 2].

    It knows no more than the others before the question: ``asked`` is set when it comes.
    """

    spans: I64
    asked: bool = False
    name: str = "oracle"

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`."""
        return Oracle().score(replace(observation, wanted=self.spans if self.asked else None))


@dataclass(frozen=True)
class StillLens:
    """Gists without a lens: nothing moves by choice, the oldest is made coarser when it must."""

    name: str = "none"

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`."""
        return recency_prior(observation)


def is_raw(context: WorkingContext, spans: I64) -> bool:
    """Whether no gist stands for any token of ``spans`` I64[m, 2]."""
    gists = context.levels > 0
    starts = context.starts[gists]
    stops = np.append(context.starts, context.n_tokens - context.tail_tokens)[1:][gists]
    touched = (starts < spans[:, 1:]) & (stops > spans[:, :1])
    return not bool(touched.any())


class Ledger(Recorder):
    """Keeps NLL and refocus counts where a trace would be written."""

    def __init__(self, context: WorkingContext, gold: I64) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # no row ever reaches a writer
        self._context = context
        self._gold = gold
        self.nll: list[F32] = []
        self.rounds: list[list[RoundResult]] = []
        self.refocuses = 0
        self.reached: int | None = None

    def watch(self) -> None:
        """A question begins; ``rounds`` are those of its refocuses."""
        self.refocuses = 0
        self.rounds = []
        self.reached = 0 if len(self._gold) and is_raw(self._context, self._gold) else None

    def tokens(
        self, tokens: np.ndarray, text: list[str], nll: np.ndarray, appended: np.ndarray
    ) -> None:
        self.nll.append(nll)

    @property
    def has_news(self) -> bool:
        return False  # no row waits, so a session's end needs no refocus

    def refocus(self, rounds: list[TimedRound], sync: SyncStats, phase: Phase) -> None:
        self.refocuses += 1
        if len(self._gold):
            self.rounds.append([timed.result for timed in rounds])
        if self.reached is None and len(self._gold) and is_raw(self._context, self._gold):
            self.reached = self.refocuses


class _SeatSession(Session):
    """A session that fills its window when it is first read."""

    gold_raw: bool | None = None
    gold: I64 = np.empty((0, 2), np.int64)
    spans_raw: tuple[bool, ...] = ()

    def release(self) -> None:
        window = self.parts.window
        if isinstance(window, HeldWindow) and window.held:
            window.held = False
            self.warm_up()

    def decode(self, limit: int, stop: str = "", prefix: str = "") -> str:
        self.release()
        if len(self.gold):
            context = self.parts.focus.working_context
            self.spans_raw = tuple(
                is_raw(context, self.gold[i : i + 1]) for i in range(len(self.gold))
            )
            self.gold_raw = all(self.spans_raw)
        return super().decode(limit, stop, prefix)


class FocusedSeat:
    """One contender over one history.

    Args:
        parts: cold-started over as much of the history as no model needs to read.
        gold: token spans I64[m, 2] of the answer, may be empty.
        held: compute nothing before the first token is decoded or measured.
    """

    def __init__(self, parts: Parts, gold: I64, held: bool) -> None:
        assert isinstance(parts.window, HeldWindow)
        parts.window.held = held
        self._ledger = Ledger(parts.focus.working_context, gold)
        self._session = _SeatSession(parts, self._ledger)
        self._session.gold = gold
        self._session.warm_up()

    def read(self, tokens: U32) -> None:
        """More history, with the refocuses of a session."""
        self._session.run([Ingest(tokens)])

    def ask(self, prompt: U32, limit: int, stop: str, room: int = 0) -> Asked:
        """The question's refocuses, then a greedy answer; the budget makes room by itself."""
        lens = self._session.parts.lens
        if isinstance(lens, GoldLens):
            lens.asked = True
        self._ledger.watch()
        outcome = self._session.run([Question(prompt, "", "", limit, stop)])
        reached = self._ledger.reached if self._session.gold_raw else None
        text = outcome.answers[-1].text
        return Asked(text, self._session.gold_raw, reached, self._evidence())

    def more(self, limit: int, stop: str) -> str:
        """The answer goes on; empty where it has ended."""
        parts = self._session.parts
        count = parts.tree.n_tokens
        if int(parts.tree.tokens(count - 1, count)[0]) == parts.base.tokenizer.eos_id:
            return ""
        self._session.run([Decode(limit, stop)])
        return self._session.outcome.decoded[-1]

    def _evidence(self) -> Evidence | None:
        session = self._session
        if session.gold_raw is None:
            return None
        config = session.config
        lens = session.parts.lens
        return evidence_of(
            self._ledger.rounds,
            session.gold,
            session.spans_raw,
            limits_for(config.focus, Trigger.QUESTION).tau_expand,
            config.block_size,
            lens.block_scores() if isinstance(lens, ScoresBlocks) else None,
        )

    def hear(self, prompt: U32) -> None:
        """A question with its refocuses; the answer is measured next."""
        self.ask(prompt, 0, "")

    def measure(self, tokens: U32) -> F32:
        """NLL F32[t] in nats of the next tokens, read as a session reads them."""
        self._session.release()
        self._ledger.nll.clear()
        self._session.run([Ingest(tokens)])
        return np.concatenate(self._ledger.nll)
