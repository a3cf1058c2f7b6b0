"""The public engine: a frozen language model whose context is virtualized, in a few calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from megacontext.core.allocators import Allocator
from megacontext.core.config import Config, dump_config, load_config, parse_config
from megacontext.core.focus import WorkingContext
from megacontext.core.geometry import span
from megacontext.core.lenses import Lens
from megacontext.core.runtime.asking import TEMPLATE, answer_turn
from megacontext.core.runtime.build import EngineParts, build_parts
from megacontext.core.runtime.controller import NullController
from megacontext.core.runtime.recorder import Observer, Recorder, TimedRound
from megacontext.core.runtime.run import trace_writer
from megacontext.core.runtime.session import Session
from megacontext.core.runtime.sinks import LastRefocus, NullSink
from megacontext.core.telemetry.watch import SessionWatch
from megacontext.traces.errors import ConfigError, SourceError
from megacontext.traces.schema import ActionKind, Trigger
from megacontext.traces.target import claim
from megacontext.traces.writer import TraceWriter

__all__ = ["Answer", "Engine", "FocusAction", "Refocus"]


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
    """An answer: its text, how many tokens were decoded for it, and what was refocused for it.

    A long question, or one with a question mark in the middle, brings several refocuses; their
    actions are joined.
    """

    text: str
    n_tokens: int
    refocus: Refocus


class Engine:
    """A session over a growing history that the model sees through ``w_max`` entries.

    Make one with :meth:`load` and close it, or use it as a context manager. An engine is for one
    thread. Two engines may live side by side, but share the CPU threads of torch.
    """

    def __init__(
        self,
        parts: EngineParts,
        resources: ExitStack,
        writer: TraceWriter | None,
        observers: Sequence[Observer] = (),
    ) -> None:
        """Over parts that are built; use :meth:`load`, which closes ``resources`` on an error."""
        self._parts = parts
        self._resources = resources
        self._sink = LastRefocus(NullSink() if writer is None else Recorder(writer, observers))
        self._listener = _Listener()
        self._session = Session(parts, self._sink, self._listener)
        self._session.warm_up()
        if not parts.tree.n_tokens:  # the token that begins a sequence, where the model has one
            self._session.append(np.asarray(parts.base.tokenizer.start_ids, np.uint32))
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
            trace: file to record to, in place of a trace that is there; none records nothing.
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

        with ExitStack() as stack:
            # The trace's name first: it fails sooner than a model loads.
            taken = (
                None if trace is None else stack.enter_context(claim(Path(trace), overwrite=True))
            )
            parts = build_parts(
                resolved,
                lens=None if isinstance(lens, str) else lens,
                allocator=None if isinstance(allocator, str) else allocator,
            )
            stack.callback(parts.close)
            if taken is None:
                engine = cls(parts, stack, None)
            else:
                writer = stack.enter_context(trace_writer(parts, taken))
                # Alarms and telemetry.
                stale = bool(parts.stale_gists)
                watch = SessionWatch(parts.config, taken.path, stale_gists=stale)
                stack.callback(watch.close)
                engine = cls(parts, stack, writer, [watch])
            engine._resources = stack.pop_all()
            return engine
        raise AssertionError("an ExitStack hides no error")

    # -- the history ----------------------------------------------------------------------

    def append(self, text: str) -> int:
        """Take text into the history; it refocuses at every complete block.

        Returns:
            How many tokens the text has.
        """
        session = self._open()
        tokens = self._parts.base.tokenizer.encode(text)
        if len(tokens):
            session.append(tokens)
        self._parts.tree.commit()
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
        stop: str | None = None,
        on_text: Callable[[str], None] = lambda text: None,
    ) -> Answer:
        """Take a question in, refocus on it and decode an answer; both stay in the history.

        Args:
            question: the plain question; the model's chat format is put around it, if it has one.
            max_new_tokens: longest answer, in tokens.
            stop: text that ends the answer, "" for none. None: a new line for a model without a
                chat format; others end an answer themselves.
            on_text: given each piece of the answer as it is decoded.

        Raises:
            ConfigError: max_new_tokens is negative.
            SourceError: the question is empty.
        """
        session, chat = self._open(), self._parts.base.tokenizer.chat is not None
        _check_limit(max_new_tokens)
        if not question.strip():
            raise SourceError("question is empty; ask something.")
        turn = question if chat else TEMPLATE.format(question=question.strip())
        end = ("" if chat else "\n") if stop is None else stop

        # The listener passes the answer on as it comes.
        stream, count = _UntilStop(end), 0

        def listen(piece: str) -> None:
            nonlocal count
            count += 1
            if ready := stream.push(piece):
                on_text(ready)

        self._listener.callback, self._sink.read = listen, []
        try:
            text = answer_turn(session, turn, max_new_tokens, end)
            if rest := stream.flush():
                on_text(rest)
            return Answer(text.strip(), count, self._refocus(self._sink.read or self._sink.rounds))
        finally:
            self._listener.callback, self._sink.read = _ignore, None

    def generate(self, *, max_new_tokens: int = 256, stop: str = "") -> Iterator[str]:
        """Decode what follows the history, piece by piece; what was yielded is in the history.

        Ends after ``max_new_tokens``, at ``stop`` (which is not yielded) or where the model ends
        its text. It may be left early.

        Raises:
            ConfigError: max_new_tokens is negative.
            SourceError: the history is empty.
        """
        session, tokenizer = self._open(), self._parts.base.tokenizer
        _check_limit(max_new_tokens)
        stream = _UntilStop(stop)
        for _ in range(max_new_tokens):
            if ready := stream.push(session.decode(1)):
                yield ready
            latest = self._parts.tree.tokens(self.n_tokens - 1, self.n_tokens)
            if stream.stopped or int(latest[0]) in tokenizer.end_ids:
                break
        if rest := stream.flush():
            yield rest

    # -- focus ----------------------------------------------------------------------------

    def refocus(self) -> Refocus:
        """Score and allocate now, beside the refocuses that come by themselves."""
        self._open().refocus(Trigger.MANUAL)
        return self._refocus(self._sink.rounds)

    @property
    def working_context(self) -> WorkingContext:
        """What the model sees, to read: ``levels``, ``index``, ``starts``, ``cost``, ``w_max``."""
        return self._parts.focus.working_context

    @property
    def last_refocus(self) -> Refocus | None:
        """The last refocus; None before the first."""
        return self._refocus(self._sink.rounds) if self._sink.rounds else None

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
        with self._resources:
            self._session.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        self._closed = True  # a step may be half done: keep what is whole
        self._resources.close()

    def _refocus(self, rounds: list[TimedRound]) -> Refocus:
        actions = []
        for timed in rounds:
            for action in timed.result.actions:
                level, index = int(action["level"]), int(action["index"])
                start, stop = span(level, index, self._parts.config.block_size)
                kind = ActionKind(int(action["kind"])).name.lower()
                score, forced = float(action["score"]), bool(action["forced"])
                actions.append(FocusAction(kind, level, index, start, stop, score, forced))
        result = rounds[-1].result
        return Refocus(result.step, Trigger(result.trigger).name.lower(), tuple(actions))

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


def _check_limit(max_new_tokens: int) -> None:
    if max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens is {max_new_tokens}; it must be at least 0.")


def _ignore(text: str) -> None:
    """Nobody listens."""


class _Listener(NullController):
    """Passes the tokens of a reply on."""

    def __init__(self) -> None:
        self.callback: Callable[[str], None] = _ignore

    def on_token(self, text: str, nll: float) -> None:
        self.callback(text)


class _UntilStop:
    """A stream of text that ends before ``stop``: what may begin it waits for what follows."""

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self._waiting = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """The text that is certain after the next piece."""
        if self.stopped:
            return ""
        text, stop = self._waiting + piece, self._stop
        if stop and stop in text:
            self.stopped, self._waiting = True, ""
            return text.partition(stop)[0]
        max_length = min(len(text), max(0, len(stop) - 1))
        matched = next((n for n in range(max_length, 0, -1) if text.endswith(stop[:n])), 0)
        self._waiting = text[len(text) - matched :]
        return text[: len(text) - matched]

    def flush(self) -> str:
        """What waits at the end."""
        rest, self._waiting = self._waiting, ""
        return rest
