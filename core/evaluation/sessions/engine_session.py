"""A contender's session on the engine: a tree, a lens, an allocator and a lazy window."""

from __future__ import annotations

import numpy as np

from megacontext.core.evaluation.sessions.base import AnswerResult
from megacontext.core.evaluation.sessions.control_lenses import OracleLens
from megacontext.core.evaluation.sessions.evidence import Evidence, ScoresBlocks, evidence_of
from megacontext.core.evaluation.sessions.lazy_window import LazyKVWindow
from megacontext.core.focus import RoundResult, WorkingContext
from megacontext.core.focus.actions import F32, I64
from megacontext.core.focus.limits import limits_for
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

__all__ = ["EngineSession", "MetricsSink", "is_raw"]


def is_raw(context: WorkingContext, spans: I64) -> bool:
    """Whether no gist covers any token of ``spans`` I64[m, 2]."""
    gists = context.levels > 0
    starts = context.starts[gists]
    ends = np.append(context.starts, context.n_tokens - context.tail_tokens)[1:][gists]
    overlaps = (starts < spans[:, 1:]) & (ends > spans[:, :1])
    return not bool(overlaps.any())


class MetricsSink(NullSink):
    """Collects the NLL and the refocuses of a session.

    Args:
        context: the session's working context.
        gold: token spans I64[m, 2] of the answer, may be empty.

    Attributes:
        nll: F32[t] in nats of each append.
        rounds: rounds of each refocus since :meth:`watch`.
        reached: number of refocuses until all gold was raw; None if it is not yet.
    """

    def __init__(self, context: WorkingContext, gold: I64) -> None:
        super().__init__()
        self._context = context
        self._gold = gold
        self.nll: list[F32] = []
        self.rounds: list[list[RoundResult]] = []
        self.refocuses = 0
        self.reached: int | None = None

    def watch(self) -> None:
        """Start of a question: from here on, ``rounds`` and ``refocuses`` are counted."""
        self.refocuses = 0
        self.rounds = []
        self.reached = 0 if len(self._gold) and is_raw(self._context, self._gold) else None

    def tokens(
        self, tokens: np.ndarray, text: list[str], nll: np.ndarray, added: np.ndarray
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


class EngineSession:
    """A :class:`~.base.ContenderSession` that refocuses.

    Args:
        parts: cold-started over as much of the history as no model needs to read.
        gold: token spans I64[m, 2] of the answer, may be empty.
        lazy: compute nothing before the first token is decoded or scored.
    """

    def __init__(self, parts: EngineParts, gold: I64, lazy: bool) -> None:
        assert isinstance(parts.window, LazyKVWindow)
        self._window = parts.window
        self._window.waits = lazy
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
        """See :class:`~.base.ContenderSession`; with the refocuses of a session."""
        self._session.append(tokens)

    def ask(self, prompt: U32, limit: int, stop: str, reserve: int = 0) -> AnswerResult:
        """See :class:`~.base.ContenderSession`; refocuses free the entries for the answer."""
        lens = self._session.parts.lens
        if isinstance(lens, OracleLens):
            lens.active = True
        self._sink.watch()
        outcome = self._script.run([Question(prompt, "", "", limit, stop)])
        reached = self._sink.reached if self._gold_raw else None
        return AnswerResult(outcome.answers[-1].text, self._gold_raw, reached, self._evidence())

    def continue_answer(self, limit: int, stop: str) -> str:
        """See :class:`~.base.ContenderSession`."""
        parts = self._session.parts
        count = parts.tree.n_tokens
        if int(parts.tree.tokens(count - 1, count)[0]) == parts.base.tokenizer.eos_id:
            return ""
        self._session.answering = True  # what the question expanded stays expanded
        self._script.run([Decode(limit, stop)])
        self._session.answering = False
        return self._script.outcome.decoded[-1]

    def _evidence(self) -> Evidence | None:
        if self._gold_raw is None:
            return None
        config, lens = self._session.config, self._session.parts.lens
        return evidence_of(
            self._sink.rounds,
            self._gold,
            self._spans_raw,
            limits_for(config.focus, Trigger.QUESTION).tau_expand,
            config.block_size,
            lens.block_scores() if isinstance(lens, ScoresBlocks) else None,
        )

    def read_question(self, prompt: U32) -> None:
        """See :class:`~.base.ContenderSession`."""
        self.ask(prompt, 0, "")

    def loglikelihood(self, tokens: U32) -> tuple[F32, bool]:
        """See :class:`~.base.ContenderSession`."""
        self._build_window()
        self._sink.nll.clear()
        greedy = True
        for token in tokens:
            last = self._session.parts.window.last
            greedy &= last is not None and int(last.logits[-1].argmax()) == int(token)
            self._session.append(np.array([token], np.uint32))
        return np.concatenate(self._sink.nll), greedy

    def score_tokens(self, tokens: U32) -> F32:
        """See :class:`~.base.ContenderSession`."""
        self._build_window()
        self._sink.nll.clear()
        self._session.append(tokens)
        return np.concatenate(self._sink.nll)
