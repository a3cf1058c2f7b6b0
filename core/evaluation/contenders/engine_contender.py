"""Contenders that focus: a session with some lens over the history."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from megacontext.core.evaluation.contenders.evidence import Evidence, ScoresBlocks, evidence_of
from megacontext.core.evaluation.contenders.lazy_window import LazyKVWindow
from megacontext.core.focus import RoundResult, WorkingContext
from megacontext.core.focus.actions import F32, I64
from megacontext.core.focus.limits import limits_for
from megacontext.core.lenses import LensNeeds, Observation, Oracle
from megacontext.core.lenses.blocks import recency_prior
from megacontext.core.model.window import SyncStats
from megacontext.core.runtime.build import EngineParts
from megacontext.core.runtime.hooks import Hooks
from megacontext.core.runtime.recorder import TimedRound
from megacontext.core.runtime.script import ScriptRunner
from megacontext.core.runtime.session import Session
from megacontext.core.runtime.sinks import NullSink
from megacontext.core.sources import Decode, Question
from megacontext.core.tree.spec import U32
from megacontext.traces.schema import Phase, Trigger

__all__ = ["Asked", "FocusedSeat", "GoldLens", "MetricsSink", "StillLens", "is_raw"]


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
    requires = LensNeeds()

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`."""
        return Oracle().score(replace(observation, wanted=self.spans if self.asked else None))


@dataclass(frozen=True)
class StillLens:
    """Gists without a lens: nothing moves by choice, the oldest is made coarser when it must."""

    name: str = "none"
    requires = LensNeeds()

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


class MetricsSink(NullSink):
    """Collects NLL and refocuses where a trace would be written."""

    def __init__(self, context: WorkingContext, gold: I64) -> None:
        super().__init__()
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
        """See :class:`~megacontext.core.runtime.sinks.TraceSink`."""
        self.nll.append(nll)

    def refocus(self, rounds: list[TimedRound], sync: SyncStats, phase: Phase) -> None:
        """See :class:`~megacontext.core.runtime.sinks.TraceSink`."""
        self.refocuses += 1
        if len(self._gold):
            self.rounds.append([timed.result for timed in rounds])
        if self.reached is None and len(self._gold) and is_raw(self._context, self._gold):
            self.reached = self.refocuses


class FocusedSeat:
    """One contender over one history.

    Args:
        parts: cold-started over as much of the history as no model needs to read.
        gold: token spans I64[m, 2] of the answer, may be empty.
        held: compute nothing before the first token is decoded or measured.
    """

    def __init__(self, parts: EngineParts, gold: I64, held: bool) -> None:
        assert isinstance(parts.window, LazyKVWindow)
        self._window = parts.window
        self._window.waits = held
        self._gold = gold
        self._gold_raw: bool | None = None
        self._spans_raw: tuple[bool, ...] = ()
        self._sink = MetricsSink(parts.focus.working_context, gold)
        hooks = Hooks(before_decode=self._before_decode)
        self._session = Session(parts, self._sink, hooks=hooks)
        self._script = ScriptRunner(self._session)
        self._session.warm_up()

    def _before_decode(self) -> None:
        self._build_window()
        if len(self._gold):
            context = self._session.context
            self._spans_raw = tuple(is_raw(context, span[None]) for span in self._gold)
            self._gold_raw = all(self._spans_raw)

    def _build_window(self) -> None:
        if self._window.waits:
            self._window.waits = False
            self._session.warm_up()

    def read(self, tokens: U32) -> None:
        """More history, with the refocuses of a session."""
        self._session.append(tokens)

    def ask(self, prompt: U32, limit: int, stop: str, room: int = 0) -> Asked:
        """The question's refocuses, then a greedy answer; the budget makes room by itself."""
        lens = self._session.parts.lens
        if isinstance(lens, GoldLens):
            lens.asked = True
        self._sink.watch()
        outcome = self._script.run([Question(prompt, "", "", limit, stop)])
        reached = self._sink.reached if self._gold_raw else None
        text = outcome.answers[-1].text
        return Asked(text, self._gold_raw, reached, self._evidence())

    def more(self, limit: int, stop: str) -> str:
        """The answer goes on; empty where it has ended."""
        parts = self._session.parts
        count = parts.tree.n_tokens
        if int(parts.tree.tokens(count - 1, count)[0]) == parts.base.tokenizer.eos_id:
            return ""
        self._session.answering = True  # what the question opened stays open
        self._script.run([Decode(limit, stop)])
        self._session.answering = False
        return self._script.outcome.decoded[-1]

    def _evidence(self) -> Evidence | None:
        session = self._session
        if self._gold_raw is None:
            return None
        config = session.config
        lens = session.parts.lens
        return evidence_of(
            self._sink.rounds,
            self._gold,
            self._spans_raw,
            limits_for(config.focus, Trigger.QUESTION).tau_expand,
            config.block_size,
            lens.block_scores() if isinstance(lens, ScoresBlocks) else None,
        )

    def hear(self, prompt: U32) -> None:
        """A question with its refocuses; the answer is measured next."""
        self.ask(prompt, 0, "")

    def judge(self, tokens: U32) -> tuple[F32, bool]:
        """NLL F32[t] in nats of the next tokens, and whether each was the likeliest."""
        self._build_window()
        self._sink.nll.clear()
        greedy = True
        for token in tokens:
            last = self._session.parts.window.last
            greedy &= last is not None and int(last.logits[-1].argmax()) == int(token)
            self._session.append(np.array([token], np.uint32))
        return np.concatenate(self._sink.nll), greedy

    def measure(self, tokens: U32) -> F32:
        """NLL F32[t] in nats of the next tokens, read as a session reads them."""
        self._build_window()
        self._sink.nll.clear()
        self._session.append(tokens)
        return np.concatenate(self._sink.nll)
