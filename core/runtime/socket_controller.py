"""Controllers that read commands and turns: from standard input, or from a control socket."""

from __future__ import annotations

import io
import math
import queue
import sys
import threading
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from megacontext.core.config import build, check_lag
from megacontext.core.config.fields import value_spec
from megacontext.core.config.schema import Config, FocusConfig
from megacontext.core.markers import check_marker
from megacontext.core.runtime.asking import (
    ANSWER_STOP,
    ANSWER_TOKENS,
    answer_turn,
    inject,
    question_text,
)
from megacontext.core.runtime.controller import Stop
from megacontext.core.utf8 import check_utf8
from megacontext.traces.control import Command, ControlServer
from megacontext.traces.errors import ConfigError, MegaContextError

if TYPE_CHECKING:
    from megacontext.core.runtime.session import Session

__all__ = ["LineController", "SocketController", "set_knob"]


def _stdin() -> TextIO:
    """Standard input, in which a byte that is no UTF-8 reads as U+FFFD and ends no conversation."""
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors != "replace":
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    return sys.stdin


class LineController:
    """No commands; turns are lines of standard input, replies go to standard output."""

    def serve(self, session: Session) -> None:
        """Nothing can be asked."""

    def next_turn(self, session: Session) -> str:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = _stdin().readline()
        if not line:
            raise Stop
        return line

    def on_reply(self, text: str) -> None:
        print(text.strip(), flush=True)

    def on_question(self, text: str) -> None:
        """Whoever typed the line knows it."""

    def on_token(self, text: str, nll: float) -> None:
        """The reply is printed as a whole."""

    def on_answer(self, text: str) -> None:
        """:meth:`reply` prints it."""


class SocketController(LineController):
    """Commands from a control socket; turns come from there or from standard input.

    Every client learns of pauses, questions and the tokens of replies as they come.
    """

    _POLL_S = 0.05

    def __init__(self, server: ControlServer, *, read_stdin: bool) -> None:
        self._server = server
        self._paused = False
        self._through_pause = False  # an answer that was asked for while paused
        self._steps = 0
        self._last_step = -1
        self._turns: queue.Queue[str | None] = queue.Queue()
        self._questions: deque[str] = deque()
        self._read_stdin = read_stdin
        self._reader: threading.Thread | None = None
        self._known_state: tuple[bool, bool] = (False, False)

    def serve(self, session: Session) -> None:
        self._carry_out(session, wait=False)
        while True:
            self._publish(session)
            if self._questions and not session.answering:
                question = self._next_question(session)
                self._through_pause = True
                chat = session.parts.base.tokenizer.chat is not None
                answer_turn(session, question, ANSWER_TOKENS, "" if chat else ANSWER_STOP)
                self._through_pause = False
            elif not self._paused or self._through_pause or self._may_step(session):
                return
            else:
                self._carry_out(session, wait=True)

    def _next_question(self, session: Session) -> str:
        chat = session.parts.base.tokenizer.chat is not None
        return question_text(self._questions.popleft(), chat)

    def next_turn(self, session: Session) -> str:
        self._through_pause = False
        if self._read_stdin and self._reader is None:
            self._reader = threading.Thread(target=self._read_lines, daemon=True)
            self._reader.start()
        while True:
            self._publish(session)
            self._carry_out(session, wait=True)
            if self._questions:
                self._through_pause = True
                return self._next_question(session)
            try:
                turn = self._turns.get_nowait()
            except queue.Empty:
                continue
            if turn is None:
                raise Stop
            return turn

    def on_question(self, text: str) -> None:
        self._server.broadcast("asked", text=text)

    def on_token(self, text: str, nll: float) -> None:
        self._server.broadcast("token", text=text, nll=nll if math.isfinite(nll) else None)

    def on_answer(self, text: str) -> None:
        self._server.broadcast("answered", text=text)

    def _publish(self, session: Session) -> None:
        """Every viewer learns that the session pauses, runs, or waits for a person."""
        state = (self._paused, session.awaits_turn)
        if state != self._known_state:
            self._known_state = state
            self._server.broadcast("status", **self._status(session))

    def _read_lines(self) -> None:
        for line in _stdin():
            self._turns.put(line)
        self._turns.put(None)

    def _may_step(self, session: Session) -> bool:
        """Lets the session run until one more refocus is done."""
        if self._steps and session.step != self._last_step:
            self._steps, self._last_step = self._steps - 1, session.step
        return self._steps > 0

    def _carry_out(self, session: Session, *, wait: bool) -> None:
        for command in self._server.poll(self._POLL_S if wait else 0.0):
            try:
                response = self._do(command, session)
            except MegaContextError as error:
                command.reply(ok=False, error=str(error))
            else:
                command.reply(ok=True, **response)
                if command.name == "stop":
                    raise Stop

    def _do(self, command: Command, session: Session) -> dict[str, Any]:
        match command.name:
            case "pause":
                self._paused, self._through_pause = True, False
            case "resume":
                self._paused, self._steps = False, 0
            case "step":
                self._paused, self._steps = True, self._steps + 1
                self._last_step = session.step

            # What changes the session or its history.
            case "set":
                set_knob(session, command.fields.get("key"), command.fields.get("value"))
            case "text":
                self._text(session, command.fields.get("text"))
            case "ask":
                self._questions.append(_text_of(command.fields.get("text"), "text"))
            case "marker":
                marker = _text_of(command.fields.get("text"), "marker")
                session.sink.marker(check_marker(marker, "marker"))
            case "stop" | "status":
                pass
            case _:
                raise ConfigError(
                    f"command is {command.name!r}; use pause, resume, step, set, text, ask, "
                    "marker, status or stop."
                )
        return self._status(session)

    def _text(self, session: Session, text: object) -> None:
        typed = _text_of(text, "text")
        if session.awaits_turn:
            self._turns.put(typed)
        else:
            inject(session, typed)

    def _status(self, session: Session) -> dict[str, Any]:
        context = session.context
        return {
            "paused": self._paused,
            "step": session.step,
            "n_tokens": context.n_tokens,
            "cost": context.cost,
            "w_max": context.w_max,
            "awaits_turn": session.awaits_turn,
        }


def _text_of(value: object, field: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{field} is {value!r}; send a text that is not empty.")
    return check_utf8(value, field)


def set_knob(session: Session, key: object, value: object) -> None:
    """Change ``w_max`` or a ``focus.*`` key of a running session.

    Raises:
        ConfigError: another key, or an illegal value.
    """
    if key == "w_max":
        field = Config.__dataclass_fields__["w_max"]
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not value_spec(field).admits(value)
        ):
            raise ConfigError(f"w_max is {value!r}; it must be {value_spec(field).describe()}.")
        before = session.config.w_max
        session.set_w_max(value, _change("w_max", before, value))
        return

    # Limits of the focus hold from the next refocus on.
    section, _, name = str(key).partition(".")
    if section != "focus" or not name:
        raise ConfigError(f"{key!r} cannot change in a running session; use w_max or focus.*.")
    if name == "protected_blocks":
        raise ConfigError("focus.protected_blocks is fixed for a run; restart with --set.")
    earlier, focus = session.focus_config, _with(session.focus_config, name, value)
    check_lag(focus, session.config.block_size)
    session.set_focus(focus)
    change = _change(name, _value_of(earlier, name), _value_of(focus, name))
    if change:
        session.sink.marker(change)


def _change(name: str, before: object, now: object) -> str:
    """A knob's marker, with its value before and after; "" where it did not change."""
    if before == now:
        return ""
    written = [f"{v:,}" if type(v) is int else f"{v:g}" if type(v) is float else str(v)
               for v in (before, now)]  # fmt: skip
    return f"{name} {written[0]} → {written[1]}"


def _value_of(focus: FocusConfig, name: str) -> object:
    node: Any = asdict(focus)
    for part in name.split("."):
        node = node[part]
    return node


def _with(focus: FocusConfig, name: str, value: object) -> FocusConfig:
    raw: dict[str, Any] = asdict(focus)
    *parents, last = name.split(".")
    node: Any = raw
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        raise ConfigError(f"focus.{name} is no key; legal: {', '.join(raw)}.")
    node[last] = value
    return build(FocusConfig, raw, "focus")
