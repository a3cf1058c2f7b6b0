"""The public engine: a frozen language model whose context is virtualized, in a few calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from megacontext.core.allocators import Allocator
from megacontext.core.config import Config, dump_config, load_config, parse_config
from megacontext.core.focus import WorkingContext
from megacontext.core.geometry import span
from megacontext.core.lenses import Lens
from megacontext.core.runtime.parts import Parts, build_parts
from megacontext.core.runtime.recorder import Recorder, TimedRound
from megacontext.core.runtime.run import trace_writer
from megacontext.core.runtime.session import Session
from megacontext.core.runtime.sinks import LastRefocus, NullSink
from megacontext.core.sources import Ingest, Question
from megacontext.traces.errors import ConfigError, SourceError
from megacontext.traces.schema import ActionKind, Trigger
from megacontext.traces.writer import TraceWriter

__all__ = ["Answer", "Engine", "FocusAction", "Refocus"]

QUESTION = "\nQuestion: {question}\nAnswer:"
"""How a question is written for a model without a chat template."""


@dataclass(frozen=True)
class FocusAction:
    """One change of the working context.

    Attributes:
        kind: ``expand`` (a gist became its children) or ``collapse`` (children became their gist).
        level, index: the gist in the tree.
        start, stop: the tokens [start, stop) of the history that it covers.
        score: the lens's score behind the action, in [-1, 1].
        forced: the budget asked for it, not the lens.
    """

    kind: str
    level: int
    index: int
    start: int
    stop: int
    score: float
    forced: bool


@dataclass(frozen=True)
class Refocus:
    """What one refocus did: its number, what triggered it, and its actions in order."""

    step: int
    trigger: str
    actions: tuple[FocusAction, ...]

    @property
    def expanded(self) -> tuple[FocusAction, ...]:
        """The actions that show the model more detail."""
        return tuple(action for action in self.actions if action.kind == "expand")


@dataclass(frozen=True)
class Answer:
    """An answer: its text, how many tokens were decoded for it, and the question's refocus."""

    text: str
    n_tokens: int
    refocus: Refocus


class Engine:
    """A session over a growing history that the model sees through ``w_max`` entries.

    Make one with :meth:`load` and close it, or use it as a context manager. An engine is for one
    thread. Two engines may live side by side, but share the CPU threads of torch.
    """

    def __init__(self, parts: Parts, writer: TraceWriter | None = None) -> None:
        """Over parts that are built; :meth:`load` is the usual way."""
        self._parts = parts
        self._writer = writer
        self._sink = LastRefocus(NullSink() if writer is None else Recorder(writer))
        self._session = Session(parts, self._sink)
        self._session.warm_up()
        self._closed = False

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        w_max: int | None = None,
        lens: str | Lens | None = None,
        allocator: str | Allocator | None = None,
        trace: str | Path | None = None,
        config: Config | str | Path | None = None,
        tree: str | Path | None = None,
    ) -> Self:
        """Load a model and put an engine over it. What is not given comes from ``config``.

        Args:
            model: ``demo`` (bundled, the default), a model folder, a GGUF file or a hub id.
            w_max: entries of the working context, the hard budget.
            lens: who scores the frontier: a kind (``bm25``, ``recency``, …) or an object.
            allocator: who turns scores into actions: a kind (``greedy``, …) or an object.
            trace: file to record to; none records nothing.
            config: a config, or a YAML file or trace that holds one; its source is not read.
            tree: folder that keeps the history; none keeps it in memory. A history that is there
                already is gone on with.

        Raises:
            ConfigError: an illegal value.
            BudgetError: ``w_max`` cannot hold the smallest legal frontier.
            ModelError: the model, GistNet or LensNet cannot serve this config.
            StorageError: the tree is damaged, foreign or in use.
        """
        settings: dict[str, object] = {"model.path": model, "w_max": w_max}
        if tree is not None:
            settings |= {"tree.storage": "disk", "tree.path": tree}
        if isinstance(lens, str):
            settings["lens.kind"] = lens
        if isinstance(allocator, str):
            settings["allocator.kind"] = allocator
        resolved = _with(config, settings)

        parts = build_parts(
            resolved,
            lens=None if isinstance(lens, str) else lens,
            allocator=None if isinstance(allocator, str) else allocator,
        )
        try:
            writer = None if trace is None else trace_writer(parts, Path(trace))
            return cls(parts, writer)
        except BaseException:
            parts.close()
            raise

    # -- the history ----------------------------------------------------------------------

    def append(self, text: str) -> int:
        """Take text into the history; it refocuses at every complete block.

        Returns:
            How many tokens the text has.
        """
        session = self._open()
        tokens = self._parts.base.tokenizer.encode(text)
        session.run([Ingest(tokens)] if len(tokens) else [])
        return len(tokens)

    def text(self, start: int, stop: int) -> str:
        """The text of tokens [start, stop) of the history."""
        self._open()
        stop = min(stop, self.n_tokens)
        return self._parts.base.tokenizer.decode(self._parts.tree.tokens(max(start, 0), stop))

    @property
    def n_tokens(self) -> int:
        """Length of the history in tokens."""
        return self.working_context.n_tokens

    # -- questions and decoding -----------------------------------------------------------

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = 64,
        stop: str = "\n",
        on_text: Callable[[str], None] = lambda text: None,
    ) -> Answer:
        """Take a question in, refocus on it and decode an answer; both stay in the history.

        Args:
            question: the plain question.
            max_new_tokens: longest answer, in tokens.
            stop: text that ends the answer; "" for none.
            on_text: given each piece of the answer as it is decoded.

        Raises:
            SourceError: the question is empty.
        """
        session = self._open()
        if not question.strip():
            raise SourceError("question is empty; ask something.")
        tokens = self._parts.base.tokenizer.encode(QUESTION.format(question=question.strip()))
        session.run([Question(tokens, "", "", 0, "")])
        refocus = self.last_refocus
        assert refocus is not None  # a question always brings one

        # The answer, piece by piece.
        start, pieces = self.n_tokens, []
        for piece in self.generate(max_new_tokens=max_new_tokens, stop=stop):
            pieces.append(piece)
            on_text(piece)
        return Answer("".join(pieces).strip(), self.n_tokens - start, refocus)

    def generate(self, *, max_new_tokens: int = 256, stop: str = "") -> Iterator[str]:
        """Decode what follows the history, piece by piece; what was yielded is in the history.

        Ends after ``max_new_tokens``, at ``stop`` (which is not yielded) or where the model ends
        its text. It may be left early.

        Raises:
            ConfigError: max_new_tokens is negative.
            SourceError: the history is empty.
        """
        session, tokenizer = self._open(), self._parts.base.tokenizer
        if max_new_tokens < 0:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}; it must be at least 0.")
        waiting = ""  # text that may be the beginning of ``stop``
        for _ in range(max_new_tokens):
            waiting += session.decode(1)
            newest = self._parts.tree.tokens(self.n_tokens - 1, self.n_tokens)
            if int(newest[0]) == tokenizer.eos_id:
                break
            if stop and stop in waiting:
                waiting = waiting.partition(stop)[0]
                break
            ready = len(waiting) - _overlap(waiting, stop)
            if ready:
                yield waiting[:ready]
            waiting = waiting[ready:]
        if waiting:
            yield waiting

    # -- focus ----------------------------------------------------------------------------

    def refocus(self) -> Refocus:
        """Score and allocate now, beside the refocuses that come by themselves."""
        self._open().refocus(Trigger.MANUAL)
        refocus = self.last_refocus
        assert refocus is not None
        return refocus

    @property
    def working_context(self) -> WorkingContext:
        """What the model sees, to read: ``levels``, ``index``, ``starts``, ``cost``, ``w_max``."""
        return self._parts.focus.working_context

    @property
    def last_refocus(self) -> Refocus | None:
        """The last refocus; None before the first."""
        rounds = self._sink.rounds
        return _refocus_of(rounds, self._parts.config.block_size) if rounds else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a user should see, e.g. which parts are untrained."""
        return tuple(self._parts.notes)

    # -- the end --------------------------------------------------------------------------

    def close(self) -> None:
        """Finish the trace and release the tree; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._session.run([])  # the row of the newest tokens
        finally:
            try:
                if self._writer is not None:
                    self._writer.close()
            finally:
                self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> Session:
        if self._closed:
            raise SourceError("The engine is closed; load another one.")
        return self._session


def _with(config: Config | str | Path | None, settings: dict[str, object]) -> Config:
    """A checked config with the settings that are not None, by key path."""
    overrides = [f"{key}={json.dumps(_plain(v))}" for key, v in settings.items() if v is not None]
    if isinstance(config, (str, Path)):
        return load_config(Path(config), overrides)
    return parse_config(dump_config(config or Config()), overrides)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    most = min(len(text), max(0, len(stop) - 1))
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)


def _refocus_of(rounds: list[TimedRound], block_size: int) -> Refocus:
    actions = []
    for timed in rounds:
        for action in timed.result.actions:
            level, index = int(action["level"]), int(action["index"])
            start, stop = span(level, index, block_size)
            kind = ActionKind(int(action["kind"])).name.lower()
            score, forced = float(action["score"]), bool(action["forced"])
            actions.append(FocusAction(kind, level, index, start, stop, score, forced))
    result = rounds[-1].result
    return Refocus(result.step, Trigger(result.trigger).name.lower(), tuple(actions))
