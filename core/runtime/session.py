"""A session: it appends tokens, samples tokens, refocuses, and records each of these.

It knows nothing of scripts, people or files: :mod:`~megacontext.core.runtime.script` turns the
events of a source into calls of a session, and
:class:`~megacontext.core.runtime.controller.Controller` lets commands in between two steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np

from megacontext.core.config import Config, FocusConfig
from megacontext.core.focus import WorkingContext
from megacontext.core.focus.limits import USER_TRIGGERS, limits_for
from megacontext.core.lenses.base import ExplainsScores
from megacontext.core.runtime.build import EngineParts
from megacontext.core.runtime.controller import Controller, NullController
from megacontext.core.runtime.hooks import Hooks
from megacontext.core.runtime.nll import DeltaNLL
from megacontext.core.runtime.observer import Observer
from megacontext.core.runtime.reader import WindowReader, bulk_tokens
from megacontext.core.runtime.recorder import TimedRound
from megacontext.core.runtime.resume import Resumed
from megacontext.core.runtime.sinks import TraceSink
from megacontext.core.runtime.tree_appender import TreeAppender
from megacontext.core.runtime.triggers.base import ScoreModifier, TriggerRule, first_trigger
from megacontext.core.runtime.triggers.echo import Echoes, EchoTrigger
from megacontext.core.runtime.triggers.question_mark import QuestionMarkTrigger
from megacontext.core.runtime.triggers.surprisal import SurprisalTrigger
from megacontext.core.tree.spec import F32, U32
from megacontext.traces.errors import ConfigError
from megacontext.traces.facts import Asked
from megacontext.traces.schema import Phase, Trigger

__all__ = ["Session"]


class Session:
    """Drives the parts of an engine over a growing history.

    Args:
        parts: model, tree, focus, lens and window, built for ``config``.
        sink: where rows go.
        controller: commands from outside between two steps; none by default.
        progress: called with the length of the history after every refocus.
        hooks: called at certain moments.

    Attributes:
        step: number of the last refocus, -1 before the first.
        last_question_at: length of the history at the last question or turn end, or None.
        bad_scores: scores that were not finite, so far.
    """

    def __init__(
        self,
        parts: EngineParts,
        sink: TraceSink,
        controller: Controller | None = None,
        progress: Callable[[int], None] = lambda n_tokens: None,
        hooks: Hooks | None = None,
    ) -> None:
        self.parts = parts
        self.config: Config = parts.config
        self.focus_config: FocusConfig = parts.config.focus
        self.sink = sink
        self.controller = controller or NullController()
        self._progress = progress
        self._hooks = hooks or Hooks()

        # When to refocus, and what changes the lens's scores.
        triggers = parts.config.triggers
        echoes = Echoes(triggers.echo, self.context, parts.tree.tokens)
        self._question_mark = QuestionMarkTrigger(parts.pieces, triggers)
        self._echo = EchoTrigger(echoes, self._tokens_without_echo)
        self._surprisal = SurprisalTrigger(triggers)
        self._modifiers: tuple[ScoreModifier, ...] = (echoes,)

        self._delta = DeltaNLL(parts.base, parts.tree.tokens, parts.config.trace)
        self._text = parts.base.tokenizer.stream()
        self._observer = Observer(parts)
        self._reader = WindowReader(parts)
        self._appender = TreeAppender(parts)

        self.step = -1
        self.bad_scores = 0
        self.last_question_at: int | None = None
        self._since_refocus = 0

        # The state of a conversation, for the controller.
        self.phase = Phase.INGEST
        self.awaits_turn = False
        self.answering = False
        self.replied = False  # a turn was answered before

    @property
    def context(self) -> WorkingContext:
        """The working context: frontier and tail, as the model sees them."""
        return self.parts.focus.working_context

    def register_fact(self, name: str, start: int, stop: int) -> None:
        """Tokens [start, stop) hold a fact that questions may be about."""
        self._observer.register_fact(name, start, stop)

    def set_target(self, name: str | None) -> None:
        """The fact that is asked about from now on (for the ``oracle`` lens), or none."""
        self._observer.set_target(name)

    def restore(self, resumed: Resumed) -> None:
        """Continue an interrupted run: its limits, its last question and its newest NLL."""
        self.focus_config = resumed.focus or self.parts.config.focus
        self.last_question_at = resumed.last_question_at
        if resumed.waiting_levels is not None:
            self._reader.hold(resumed.waiting_levels, self.focus_config.lag)
        self.warm_up(resumed.nll)

    def warm_up(self, nll: F32 | None = None) -> None:
        """Fill the window from a history that is there already.

        Args:
            nll: float32 [t] in nats, of its newest tokens as the model saw them, if known.
        """
        if self.context.n_tokens:
            self._reader.start()
            self._observer.warm_up(np.empty(0, np.float32) if nll is None else nll)

    def flush(self) -> None:
        """Record the tokens and markers that no row holds yet, and commit the tree."""
        if self.sink.has_pending:
            self.refocus(Trigger.MANUAL)
        self.parts.tree.commit()

    # -- append -----------------------------------------------------------------------------

    def append(self, tokens: U32, is_question: bool = False) -> None:
        """Append tokens (uint32 [t]) to the history; refocuses at every complete block, or at the
        end of every chunk of ``ingest.chunk`` tokens, where no other trigger is looked for.

        Args:
            is_question: the tokens belong to a user question or turn. A refocus follows in any
                case, and n-gram matches of a question with earlier questions are misleading, so
                the echo trigger is off.
        """
        self._enter(Phase.INGEST)
        if is_question:
            self._reader.settle()
        else:
            self._reader.expect_text()
        rules: list[TriggerRule] = [self._question_mark]
        if not is_question:
            rules.append(self._echo)

        position = 0
        while position < len(tokens):
            self.controller.serve(self)
            bulk = 0 if is_question else self._bulk_tokens(len(tokens) - position)
            if bulk:
                self._append_tokens(tokens[position : position + bulk])
                position += bulk
                more = len(tokens) - position >= 2 * self.config.block_size
                self.refocus(Trigger.BULK if more else Trigger.BLOCK_CLOSED)
                continue
            rest_of_block = self.config.block_size - self.context.tail_tokens
            chunk = tokens[position : position + rest_of_block]
            n, trigger = first_trigger(rules, chunk, self._since_refocus)
            position += n
            self._append_tokens(chunk[:n])
            self._refocus_if_due(trigger)

    def append_question(
        self, tokens: U32, trigger: Trigger | None, about: str = "", marker: str = ""
    ) -> None:
        """Append a question or turn and refocus on it.

        Args:
            tokens: uint32 [t], at least one.
            trigger: of the refocus; None: only the usual ones.
            about: name of the fact that is asked about, if it is known.
            marker: of the row with the question's last token.
        """
        start = self.context.n_tokens
        self.append(tokens[:-1], is_question=True)

        # The last token belongs to the row of the question's refocus, and so do the markers.
        if marker:
            self.sink.marker(marker)
        self.sink.marker(str(Asked(start, start + len(tokens))))
        if trigger is None:
            self.append(tokens[-1:], is_question=True)
            return
        self._append_tokens(tokens[-1:])
        if about:
            self.set_target(about)
        self.refocus(trigger, len(tokens))

    def _enter(self, phase: Phase) -> None:
        """A row has one phase, that at its end; a marker says where it began inside the row."""
        if phase is not self.phase and self._since_refocus:
            self.sink.marker(f"{phase.name.lower()} @{self.context.n_tokens}")
        self.phase = phase

    def _append_tokens(self, tokens: U32) -> tuple[float, str]:
        """Append tokens that the budget has room for to model, tree and working context.

        Returns:
            NLL of the last token in nats, and the tokens' text.
        """
        parts, times, start = self.parts, self.sink.timings, self.context.n_tokens

        # The model reads the tokens; on a second core GistNet encodes the block they complete.
        started = time.perf_counter()
        gist = self._appender.prefetch_gist(tokens)
        nll, hidden = self._reader.read(tokens, start)
        read = time.perf_counter()

        # Tree and frontier grow.
        self._appender.append(tokens, gist)
        added = parts.focus.append(len(tokens))
        times.decode += (read - started) * 1e6
        times.gist += (time.perf_counter() - read) * 1e6

        # Record and observe.
        chunks = self._text.push(tokens)
        self.sink.tokens(tokens, chunks, nll, added)
        self._observer.on_tokens(tokens, nll, start, hidden)
        self._delta.observe(nll)
        self._since_refocus += len(tokens)
        if len(added):
            self._appender.commit_if_due()
        return float(nll[-1]), "".join(chunks)

    # -- sample -----------------------------------------------------------------------------

    def decode(
        self,
        limit: int,
        stop: str = "",
        prefix: str = "",
        on_token: Callable[[str, float], None] = lambda text, nll: None,
    ) -> str:
        """Decode up to ``limit`` tokens; ends early at ``stop`` or the end-of-text token.

        Args:
            on_token: called with the text and the NLL (nats) of each token.

        Returns:
            ``prefix`` and the decoded text, up to ``stop``.

        Raises:
            SourceError: the history is empty.
        """
        self._hooks.before_decode()
        self._enter(Phase.DECODE)
        self._reader.catch_up()
        text = prefix
        for left in range(limit, 0, -1):
            self.controller.serve(self)
            token = np.array([self._sample_token(left)], np.uint32)

            # The echo trigger looks at the token before the model reads it, the surprisal after.
            _, trigger = first_trigger([self._echo], token, self._since_refocus)
            nll, piece = self._append_tokens(token)
            if trigger is None:
                trigger = self._surprisal.of(nll, self._since_refocus)

            finished = int(token[0]) in self.parts.base.tokenizer.end_ids
            piece = "" if finished else piece
            text += piece
            on_token(piece, nll)
            self._refocus_if_due(trigger)
            if finished or (stop and stop in text):
                break
        return text.partition(stop)[0] if stop else text

    def _sample_token(self, left: int = 1) -> int:
        """The next token; after it ``left`` - 1 more are decoded."""
        position, tree = self.context.n_tokens, self.parts.tree
        if position < tree.n_tokens:  # decoded and committed before an interruption
            return int(tree.tokens(position, position + 1)[0])
        start = time.perf_counter()
        self._reader.run_ahead(left, self.focus_config.lag)
        token = self._reader.next_token()
        self.sink.timings.decode += (time.perf_counter() - start) * 1e6
        return token

    # -- refocus ----------------------------------------------------------------------------

    def refocus(self, trigger: Trigger, question_tokens: int = 0) -> int:
        """Score and allocate until nothing changes, update the window, record.

        Args:
            question_tokens: how many of the newest tokens are the question that triggered it.

        Returns:
            The refocus number.
        """
        self._hooks.before_refocus()
        focus, is_user = self.parts.focus, trigger in USER_TRIGGERS
        if is_user:
            self.last_question_at = self.context.n_tokens

        # Rounds of lens and allocator, over the layout that the window holds.
        limits = limits_for(self.focus_config, trigger, self.config.ingest.chunk)
        self.step = step = focus.begin(trigger, limits)
        self._observer.begin(self._reader.layout())
        self._observer.set_question(question_tokens)
        rounds = self._rounds(step, trigger, question_tokens > 0)

        # The KV window follows the frontier, once.
        start = time.perf_counter()
        lag = self.focus_config.lag if self.phase == Phase.DECODE else 0
        sync = self._reader.follow(trigger, lag, self.config.kv.reread if is_user else 0)
        self.sink.timings.kv += (time.perf_counter() - start) * 1e6

        # Record.
        delta_nll = self._delta.at_refocus(self.context.n_tokens)
        if delta_nll is not None:
            self.sink.delta_nll(delta_nll)
        self.sink.refocus(rounds, sync, self.phase)
        self._since_refocus = 0
        self._progress(self.context.n_tokens)
        self._hooks.after_refocus()
        return step

    def _rounds(self, step: int, trigger: Trigger, with_pairs: bool) -> list[TimedRound]:
        """Score and allocate until the focus says that a round was the last.

        Args:
            with_pairs: record which question tokens matched which history tokens, if the lens
                knows.
        """
        lens, focus = self.parts.lens, self.parts.focus
        rounds: list[TimedRound] = []
        for number in count():
            start = time.perf_counter()
            scores = lens.score(self._observer.observe(step, number))
            for modifier in self._modifiers:
                scores = modifier.modify(scores, trigger)
            scored = time.perf_counter()
            result = focus.round(scores)
            done = time.perf_counter()

            timed = TimedRound(result, (scored - start) * 1e6, (done - scored) * 1e6)
            if with_pairs and isinstance(lens, ExplainsScores):
                timed = replace(timed, pairs=lens.score_pairs())
            rounds.append(timed)
            self.bad_scores += result.bad_scores
            if result.last:
                break
        return rounds

    def _refocus_if_due(self, trigger: Trigger | None) -> None:
        """A complete block refocuses in any case; else ``trigger`` does."""
        if self.context.tail_tokens == 0:
            self.refocus(Trigger.BLOCK_CLOSED)
        elif trigger is not None:
            self.refocus(trigger)

    def _bulk_tokens(self, left: int) -> int:
        return bulk_tokens(left, self.config.ingest.chunk, self.context)

    def _tokens_without_echo(self) -> int:
        """How many of the next tokens bring no echo: those of a block's length after a question.

        An answer matches many unrelated passages, and what the question expanded is read first.
        """
        if self.last_question_at is None:
            return 0
        until = self.last_question_at + self.config.block_size
        return max(0, until - self.context.n_tokens)

    # -- limits -----------------------------------------------------------------------------

    def set_focus(self, focus: FocusConfig) -> None:
        """New limits from the next refocus on; the trace records them."""
        self.focus_config = focus
        self.sink.knobs(focus, self.context.w_max)

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
        self.sink.knobs(self.focus_config, w_max)
        if marker:
            self.sink.marker(marker)
        self.refocus(Trigger.BUDGET_CUT)
