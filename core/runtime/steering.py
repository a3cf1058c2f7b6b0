"""Commands that reach a session while it runs: pause, step, knobs, text, stop."""

from __future__ import annotations

import io
import queue
import sys
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from megacontext.core.config import build
from megacontext.core.config.fields import legal_of
from megacontext.core.config.schema import Config, FocusConfig
from megacontext.core.utf8 import check_utf8
from megacontext.traces.control import Command, ControlServer
from megacontext.traces.errors import ConfigError, MegaContextError

if TYPE_CHECKING:
    from megacontext.core.runtime.session import Session

__all__ = ["ControlSteering", "LineSteering", "Steering", "Stop"]


class Stop(Exception):  # noqa: N818 - a request, not an error
    """The session was asked to end; everything so far is kept."""


class Steering(Protocol):
    """What a session asks between two steps."""

    def serve(self, session: Session) -> None:
        """Carry out what was asked; blocks while paused; raises :class:`Stop`."""
        ...

    def next_turn(self, session: Session) -> str:
        """The next line of a conversation; raises :class:`Stop` when there is none."""
        ...

    def reply(self, text: str) -> None:
        """Show a decoded reply to whoever wrote the turn."""
        ...


def _stdin() -> TextIO:
    """Standard input, in which a byte that is no UTF-8 reads as U+FFFD and ends no conversation."""
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors != "replace":
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    return sys.stdin


class LineSteering:
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

    def reply(self, text: str) -> None:
        print(text.strip(), flush=True)


class ControlSteering(LineSteering):
    """Commands from a control socket; turns come from there or from standard input."""

    _POLL_S = 0.05

    def __init__(self, server: ControlServer, *, read_stdin: bool) -> None:
        self._server = server
        self._paused = False
        self._steps = 0
        self._last_step = -1
        self._turns: queue.Queue[str | None] = queue.Queue()
        self._read_stdin = read_stdin
        self._reader: threading.Thread | None = None

    def serve(self, session: Session) -> None:
        self._carry_out(session, wait=False)
        while self._paused and not self._may_step(session):
            self._carry_out(session, wait=True)

    def next_turn(self, session: Session) -> str:
        if self._read_stdin and self._reader is None:
            self._reader = threading.Thread(target=self._read_lines, daemon=True)
            self._reader.start()
        while True:
            self._carry_out(session, wait=True)
            try:
                turn = self._turns.get_nowait()
            except queue.Empty:
                continue
            if turn is None:
                raise Stop
            return turn

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
                reply = self._do(command, session)
            except MegaContextError as error:
                command.reply(ok=False, error=str(error))
            else:
                command.reply(ok=True, **reply)
                if command.name == "stop":
                    raise Stop

    def _do(self, command: Command, session: Session) -> dict[str, Any]:
        match command.name:
            case "pause":
                self._paused = True
            case "resume":
                self._paused, self._steps = False, 0
            case "step":
                self._paused, self._steps = True, self._steps + 1
                self._last_step = session.step
            case "set":
                set_knob(session, command.fields.get("key"), command.fields.get("value"))
            case "text":
                self._text(session, command.fields.get("text"))
            case "marker":
                session.recorder.marker(_text_of(command.fields.get("text"), "marker"))
            case "stop" | "status":
                pass
            case _:
                raise ConfigError(
                    f"command is {command.name!r}; use pause, resume, step, set, text, marker, "
                    "status or stop."
                )
        return self._status(session)

    def _text(self, session: Session, text: object) -> None:
        typed = _text_of(text, "text")
        if session.awaits_turn:
            self._turns.put(typed)
        else:
            session.inject(typed)

    def _status(self, session: Session) -> dict[str, Any]:
        context = session.parts.focus.working_context
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
            or not legal_of(field).admits(value)
        ):
            raise ConfigError(f"w_max is {value!r}; it must be {legal_of(field).describe()}.")
        session.set_w_max(value)
        return
    section, _, name = str(key).partition(".")
    if section != "focus" or not name:
        raise ConfigError(f"{key!r} cannot change in a running session; use w_max or focus.*.")
    if name == "protected_blocks":
        raise ConfigError("focus.protected_blocks is fixed for a run; restart with --set.")
    session.set_focus(_with(session.focus_config, name, value))


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
