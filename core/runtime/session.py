"""The loop of one run: take tokens in, gist, score, allocate, edit the window, decode, record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from megacontext.core.config import Config, FocusConfig
from megacontext.core.lenses.base import ExplainsScores
from megacontext.core.model.layout import Layout
from megacontext.core.runtime.asking import answer_turn
from megacontext.core.runtime.background import second_core
from megacontext.core.runtime.build import Parts
from megacontext.core.runtime.controller import NullSteering, Steering, Stop
from megacontext.core.runtime.hooks import Hooks
from megacontext.core.runtime.judge import is_right
from megacontext.core.runtime.nll import DeltaNLL, check_nll, token_nll
from megacontext.core.runtime.observer import Observer
from megacontext.core.runtime.recorder import TimedRound
from megacontext.core.runtime.sinks import TraceSink
from megacontext.core.runtime.triggers.base import (
    ASKED,
    QuestionMarks,
    ScoreModifier,
    Surprisal,
    TriggerRule,
    first_trigger,
    limits_for,
)
from megacontext.core.runtime.triggers.echo import Echoes, EchoTrigger
from megacontext.core.sources import AwaitTurn, Decode, Event, Ingest, Mark, Plant, Question
from megacontext.core.tree.spec import F32
from megacontext.traces.errors import ConfigError, SourceError
from megacontext.traces.schema import Phase, Trigger

__all__ = ["Answer", "Outcome", "Session"]


@dataclass(frozen=True)
class Answer:
    """A decoded answer to a question of a script."""

    about: str
    expected: str
    text: str

    @property
    def right(self) -> bool | None:
        """Whether the text starts with what was expected; None if nobody said."""
        return is_right(self.text, self.expected) if self.expected.strip() else None


@dataclass
class Outcome:
    """What a session did; the trace has the rest."""

    answers: list[Answer] = field(default_factory=list)
    decoded: list[str] = field(default_factory=list)
    bad_scores: int = 0
    stopped: bool = False


class Session:
    """Drives the parts over the events of a source.

    Args:
        parts: model, tree, focus, lens and window, built for ``config``.
        recorder: where rows go.
        steering: commands from outside while running; none by default.
        progress: called with N after every refocus.
        hooks: called at certain moments.
    """

    def __init__(
        self,
        parts: Parts,
        recorder: TraceSink,
        steering: Steering | None = None,
        progress: Callable[[int], None] = lambda n_tokens: None,
        hooks: Hooks | None = None,
    ) -> None:
        self.parts = parts
        self.config: Config = parts.config
        self.focus_config: FocusConfig = parts.config.focus
        self.recorder = recorder
        self.outcome = Outcome()
        self.steering = steering or NullSteering()
        self._progress = progress
        self._hooks = hooks or Hooks()
        triggers = parts.config.triggers
        echoes = Echoes(triggers.echo, parts.focus.working_context, parts.tree.tokens)
        self._question_mark = QuestionMarks(parts.pieces, triggers)
        self._echo = EchoTrigger(echoes, self._tokens_without_echo)
        self._surprisal = Surprisal(triggers)
        self._modifiers: tuple[ScoreModifier, ...] = (echoes,)
        self._delta = DeltaNLL(parts.base, parts.tree.tokens, parts.config.trace)
        self._text = parts.base.tokenizer.stream()
        self.phase = Phase.INGEST
        self._since_refocus = 0
        self.asked_at: int | None = None
        self._observer = Observer(parts)
        self._aside = second_core(parts.base)
        self.step = -1
        self.awaits_turn = False
        self.answering = False
        self.replied = False  # a turn was answered before

    def plant(self, name: str, start: int, stop: int) -> None:
        """Say where a fact lies that questions may be about."""
        self._observer.plant(name, start, stop)

    def warm_up(self, nll: np.ndarray | None = None) -> None:
        """Fill the window from a history that is there already.

        Args:
            nll: float32 [t] in nats, of its newest tokens as the model saw them, if known.
        """
        context, tree = self.parts.focus.working_context, self.parts.tree
        if context.n_tokens:
            self.parts.window.sync(self._layout(), tree.gist_rows, tree.tokens)
            self._observer.warm_up(np.empty(0, np.float32) if nll is None else nll)

    # -- events ---------------------------------------------------------------------------

    def run(self, events: Iterable[Event]) -> Outcome:
        """Take every event in turn; returns early, and cleanly, when told to stop."""
        try:
            for event in events:
                self._handle(event)
        except Stop:
            self.outcome.stopped = True
        if self.recorder.has_news:
            self.refocus(Trigger.MANUAL)
        self.parts.tree.commit()
        return self.outcome

    def _handle(self, event: Event) -> None:
        match event:
            case Ingest(tokens=tokens):
                self.ingest(tokens)
            case Plant(name=name, tokens=tokens):
                start = self.parts.focus.working_context.n_tokens
                self.plant(name, start, start + len(tokens))
                self.recorder.marker(
                    f"needle planted @{start}-{start + len(tokens)} {name}".strip()
                )
                self.ingest(tokens)
            case Mark(text=text):
                self.recorder.marker(text)
            case Question():
                self._ask(event)
            case Decode():
                self._decode_event(event)
            case AwaitTurn(limit=limit, stop=stop):
                self._turn(limit, stop)

    def _ask(self, question: Question) -> None:
        start = self.parts.focus.working_context.n_tokens
        self.ingest(question.tokens[:-1], asked=True)
        self.recorder.marker(f"question about {question.about}" if question.about else "question")
        self.recorder.marker(f"asked @{start}-{start + len(question.tokens)}")
        self.take(question.tokens[-1:])
        self._observer.want(question.about)
        self.refocus(Trigger.QUESTION, len(question.tokens))
        about = question.about or "?"
        asked, self.answering = start + len(question.tokens), True
        self._decode_event(Decode(question.limit, question.stop, about, question.answer))
        self.answering = False
        self.recorder.marker(f"answered @{asked}-{self.parts.focus.working_context.n_tokens}")

    def _decode_event(self, event: Decode) -> None:
        self._observer.want(event.about or None)
        text = self.decode(event.limit, event.stop, event.prefix)
        self._observer.want(None)
        if event.about:
            self.outcome.answers.append(Answer(event.about, event.answer, text))
        else:
            self.outcome.decoded.append(text)

    def _turn(self, limit: int, stop: str) -> None:
        self.awaits_turn = True
        text = self.steering.next_turn(self)
        self.awaits_turn = False
        reply = answer_turn(self, text, limit, stop)
        if reply:
            self.outcome.decoded.append(reply)
        self.steering.reply(reply)

    # -- tokens ---------------------------------------------------------------------------

    def ingest(self, tokens: np.ndarray, asked: bool = False) -> None:
        """Take tokens (uint32 [t]) into the history, refocusing at every closed block.

        Args:
            asked: they are somebody's question or turn, behind which a refocus comes anyway; what
                it sounds like is not what it is about, so its echoes open nothing.
        """
        self._enter(Phase.INGEST)
        block_size = self.config.block_size
        rules: list[TriggerRule] = [self._question_mark]
        if not asked:
            rules.append(self._echo)
        at = 0
        while at < len(tokens):
            self.steering.serve(self)
            left = block_size - self.parts.focus.working_context.tail_tokens
            chunk = tokens[at : at + left]
            count, trigger = first_trigger(rules, chunk, self._since_refocus)
            at += count
            self.take(chunk[:count])
            self._refocus_if_due(trigger)

    def _enter(self, phase: Phase) -> None:
        """A row has one phase, that at its end; a marker says where it began inside the row."""
        if phase is not self.phase and self._since_refocus:
            n_tokens = self.parts.focus.working_context.n_tokens
            self.recorder.marker(f"{phase.name.lower()} @{n_tokens}")
        self.phase = phase

    def decode(
        self,
        limit: int,
        stop: str = "",
        prefix: str = "",
        on_token: Callable[[str, float], None] = lambda text, nll: None,
    ) -> str:
        """Decode up to ``limit`` tokens; ends early at ``stop`` or the end-of-text token.

        Args:
            on_token: given the text and the NLL (nats) of each token as it comes.

        Returns:
            ``prefix`` and the decoded text, up to ``stop``.
        """
        self._hooks.before_decode()
        self._enter(Phase.DECODE)
        text = prefix
        for _ in range(limit):
            self.steering.serve(self)
            token = np.array([self._pick()], np.uint32)
            _, trigger = first_trigger([self._echo], token, self._since_refocus)
            nll, piece = self.take(token)
            if trigger is None:
                trigger = self._surprisal.of(nll, self._since_refocus)
            ended = int(token[0]) in self.parts.base.tokenizer.end_ids
            piece = "" if ended else piece
            text += piece
            on_token(piece, nll)
            self._refocus_if_due(trigger)
            if ended or (stop and stop in text):
                break
        return text.partition(stop)[0] if stop else text

    def _refocus_if_due(self, trigger: Trigger | None) -> None:
        """A complete block refocuses whatever else happened; else ``trigger`` does."""
        if self.parts.focus.working_context.tail_tokens == 0:
            self.refocus(Trigger.BLOCK_CLOSED)
        elif trigger is not None:
            self.refocus(trigger)

    def _tokens_without_echo(self) -> int:
        """How many of the next tokens bring no echo: those of a block's length after a question.

        An answer matches many unrelated passages, and what the question expanded is read first.
        """
        if self.asked_at is None:
            return 0
        until = self.asked_at + self.config.block_size
        return max(0, until - self.parts.focus.working_context.n_tokens)

    def _pick(self) -> int:
        position, tree = self.parts.focus.working_context.n_tokens, self.parts.tree
        if position < tree.n_tokens:  # decoded and committed before an interruption
            return int(tree.tokens(position, position + 1)[0])
        began = time.perf_counter()
        last = self.parts.window.last
        if last is None:
            raise SourceError("There is nothing to decode from; ingest some text first.")
        token = self.parts.sampler.sample(last.logits[-1], position)
        self.recorder.stages.decode += (time.perf_counter() - began) * 1e6
        return token

    def take(self, tokens: np.ndarray) -> tuple[float, str]:
        """Model, tree and working context take tokens that fit the tail's block.

        Returns:
            NLL of the last token in nats, and the tokens' text.
        """
        parts, stages = self.parts, self.recorder.stages
        began = time.perf_counter()
        before = parts.window.last
        gist = self._begin_gist(tokens)
        forward = parts.window.append(tokens)
        nll = np.full(len(tokens), np.nan, np.float32)
        if before is not None:
            nll[0] = token_nll(before.logits[-1:], tokens[:1])[0]
        if len(tokens) > 1:
            nll[1:] = token_nll(forward.logits[:-1], tokens[1:])
        if parts.window.last is not None:  # a window that waits has computed nothing yet
            check_nll(parts.base, nll[int(before is None) :], parts.focus.working_context.n_tokens)
        ingested = time.perf_counter()
        start = parts.focus.working_context.n_tokens
        self._grow_tree(tokens, gist)
        appended = parts.focus.append(len(tokens))
        stages.decode += (ingested - began) * 1e6
        stages.gist += (time.perf_counter() - ingested) * 1e6
        pieces = self._text.push(tokens)
        self.recorder.tokens(tokens, pieces, nll, appended)
        self._observer.tokens(tokens, nll, start, forward.hidden)
        self._delta.observe(nll)
        self._since_refocus += len(tokens)
        if len(appended):
            self._commit_if_due()
        return float(nll[-1]), "".join(pieces)

    def _begin_gist(self, tokens: np.ndarray) -> Future[tuple[F32, F32]] | None:
        """Gist the block that ``tokens`` close while the model reads them; None if they close
        none that the tree does not know, or no core is free. The gist needs nothing of the model,
        so it is the same either way."""
        parts = self.parts
        if self._aside is None or parts.tree.n_tokens != parts.focus.working_context.n_tokens:
            return None
        closed = parts.tree.closing(tokens)
        if closed is None:
            return None
        return self._aside.submit(parts.gister.encode_blocks, *closed)

    def _grow_tree(self, tokens: np.ndarray, gist: Future[tuple[F32, F32]] | None) -> None:
        """Append what the tree does not hold yet; after an interruption it may be ahead."""
        tree, at = self.parts.tree, self.parts.focus.working_context.n_tokens
        ahead = min(tree.n_tokens - at, len(tokens))
        if ahead and not np.array_equal(tree.tokens(at, at + ahead), tokens[:ahead]):
            raise SourceError(
                f"source gives other tokens than the tree holds at token {at}; resume with the "
                "config and texts of the interrupted run, or start a new run."
            )
        # Where no core was free to begin with it, waiting for one would take longer.
        made = None if gist is None or gist.cancel() else gist.result()
        if ahead < len(tokens):
            tree.append(tokens[ahead:], made)

    def _commit_if_due(self) -> None:
        tree = self.parts.tree
        due = self.config.tree.commit_blocks * self.config.block_size
        if tree.n_tokens - tree.committed_tokens >= due:
            tree.commit()

    # -- focus ----------------------------------------------------------------------------

    def refocus(self, trigger: Trigger, question_tokens: int = 0) -> int:
        """Score and allocate until nothing changes, bring the window along, record.

        Args:
            question_tokens: how many of the newest tokens are the question behind it.

        Returns:
            The refocus number.
        """
        self._hooks.before_refocus()
        parts, focus = self.parts, self.parts.focus
        limits = limits_for(self.focus_config, trigger)
        if trigger in ASKED:
            self.asked_at = focus.working_context.n_tokens
        self.step = step = focus.begin(trigger, limits)
        rounds: list[TimedRound] = []
        self._observer.begin(self._layout())
        self._observer.ask(question_tokens)
        for number in count():
            began = time.perf_counter()
            scores = parts.lens.score(self._observer.observe(step, number))
            for modifier in self._modifiers:
                scores = modifier.modify(scores, trigger)
            scored = time.perf_counter()
            result = focus.round(scores)
            done = time.perf_counter()
            timed = TimedRound(result, (scored - began) * 1e6, (done - scored) * 1e6)
            if question_tokens and isinstance(parts.lens, ExplainsScores):
                timed = replace(timed, pairs=parts.lens.score_pairs())
            rounds.append(timed)
            self.outcome.bad_scores += result.bad_scores
            if result.last:
                break
        began = time.perf_counter()
        reread = self.config.kv.reread if trigger in ASKED else 0
        sync = parts.window.sync(self._layout(), parts.tree.gist_rows, parts.tree.tokens, reread)
        self.recorder.stages.kv += (time.perf_counter() - began) * 1e6
        measured = self._delta.at_refocus(focus.working_context.n_tokens)
        if measured is not None:
            self.recorder.delta_nll(measured)
        self.recorder.refocus(rounds, sync, self.phase)
        self._since_refocus = 0
        self._progress(focus.working_context.n_tokens)
        self._hooks.after_refocus()
        return step

    def _layout(self) -> Layout:
        context = self.parts.focus.working_context
        return Layout(
            levels=context.levels,
            index=context.index,
            tail_start=context.n_tokens - context.tail_tokens,
            n_tokens=context.n_tokens,
            block_size=self.config.block_size,
        )

    # -- steering -------------------------------------------------------------------------

    def set_focus(self, focus: FocusConfig) -> None:
        """New limits from the next refocus on; the trace says so."""
        self.focus_config = focus
        self.recorder.knobs(focus, self.parts.focus.working_context.w_max)

    def set_w_max(self, w_max: int, marker: str = "") -> None:
        """A new budget; a smaller one collapses at once. ``marker``, if any, goes on its row.

        Raises:
            ConfigError: beyond the rows the run started with, or too small for the history.
        """
        rows = self.parts.window.w_max
        if w_max > rows:
            raise ConfigError(
                f"w_max is {w_max}; a running session holds the {rows} rows it started with, use "
                f"at most {rows}."
            )
        self.config = replace(self.config, w_max=w_max)
        self.parts.focus.set_w_max(w_max)
        self.recorder.knobs(self.focus_config, w_max)
        if marker:
            self.recorder.marker(marker)
        self.refocus(Trigger.BUDGET_CUT)
