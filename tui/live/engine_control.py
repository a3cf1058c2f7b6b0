"""Commands to a running engine, and what it says: pauses, questions, answers as they come."""

from __future__ import annotations

import contextlib
import math
import queue
import select
import socket
import threading
from dataclasses import replace
from typing import Any, Protocol

from megacontext.traces.control import ControlError
from megacontext.traces.errors import MegaContextError
from megacontext.tui.state.turns import Exchange

__all__ = ["Channel", "EngineControl"]

LEAVE_WAIT_S = 2.0


class Channel(Protocol):
    """What an :class:`EngineControl` needs of the control socket's client."""

    def send(self, command: str, **fields: Any) -> dict[str, Any]: ...

    def events(self) -> list[dict[str, Any]]: ...

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class EngineControl:
    """A :class:`megacontext.tui.sources.source.Control` over the engine's control socket.

    A thread of its own sends commands, in order, and takes in what the engine says: the engine
    answers between two of its steps, and the screen must not wait for that.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._outbox: queue.SimpleQueue[tuple[str, dict[str, object]] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._paused = self._waits = False
        self._paused_here = False
        self._exchange: Exchange | None = None
        self._wakened, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._work, name="commands", daemon=True)
        self._thread.start()

    # -- the thread ---------------------------------------------------------------------------
    def _work(self) -> None:
        here: list[socket.socket | Channel] = [self._wakened, self._channel]
        self._send("status", {})
        while True:
            here = here if self._take_events() else [self._wakened]
            ready, _, _ = select.select(here, [], [])
            if self._wakened in ready:
                self._wakened.recv(4096)
            while not self._outbox.empty():
                item = self._outbox.get()
                if item is None:
                    self._channel.close()
                    return
                self._send(*item)

    def _send(self, command: str, fields: dict[str, object]) -> None:
        try:
            response = self._channel.send(command, **fields)
        except (MegaContextError, OSError) as error:
            if command != "status":  # nobody asked for that one
                self._answers.put(str(error))
        else:
            self._note(response)

    def _take_events(self) -> bool:
        """Take in what the engine said; False once it has gone."""
        try:
            events = self._channel.events()
        except (ControlError, OSError):
            return False
        for event in events:
            text = str(event.get("text", ""))
            match event.get("event"):
                case "status":
                    self._note(event)
                case "asked":
                    self._exchange = Exchange(text)
                case "token" if self._exchange is not None:
                    nll = event.get("nll")
                    nats = float(nll) if isinstance(nll, int | float) else math.nan
                    now = self._exchange
                    self._exchange = replace(now, pieces=(*now.pieces, text), nll=(*now.nll, nats))
                case "answered" if self._exchange is not None:
                    self._exchange = replace(self._exchange, complete=True)
        return True

    def _note(self, state: dict[str, Any]) -> None:
        self._paused = bool(state.get("paused", self._paused))
        self._waits = bool(state.get("awaits_turn", self._waits))

    # -- any thread ---------------------------------------------------------------------------
    def _put(self, command: str, **fields: object) -> None:
        self._outbox.put((command, fields))
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # closed: nobody is left to wake
            self._waker.send(b"\0")

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def waits(self) -> bool:
        return self._waits

    def exchange(self) -> Exchange | None:
        return self._exchange

    def answers(self) -> list[str]:
        """What the engine turned down since the last call, one sentence each."""
        refused = []
        while not self._answers.empty():
            refused.append(self._answers.get())
        return refused

    def pause(self) -> None:
        self._paused_here = True
        self._put("pause")

    def resume(self) -> None:
        self._paused_here = False
        self._put("resume")

    def refocus(self) -> None:
        """One refocus, then the engine waits."""
        self._paused_here = True
        self._put("step")

    def knob(self, name: str, value: float) -> None:
        key = name if name == "w_max" else f"focus.{name}"
        whole = (
            name in ("w_max", "n_diff") and float(value).is_integer()
        )  # else the engine says why not
        self._put("set", key=key, value=int(value) if whole else value)

    def ask(self, text: str) -> None:
        self._put("ask", text=text)

    def inject(self, text: str) -> None:
        self._put("text", text=text)

    def marker(self, label: str) -> None:
        self._put("marker", text=label)

    def stop(self) -> None:
        """Ask the engine to end, then let go of it."""
        self._put("stop")
        self._leave()

    def detach(self) -> None:
        """Let go of the engine; one that was paused here runs on, for nobody else would resume
        it."""
        if self._paused and self._paused_here:
            self.resume()
        self._leave()

    def _leave(self) -> None:
        self._outbox.put(None)
        self._wake()
        self._thread.join(LEAVE_WAIT_S)
