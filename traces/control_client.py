"""The local channel between an engine process and an inspector: the inspector's side."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from megacontext.traces.control_protocol import (
    LIMIT_BYTES,
    ControlError,
    decode,
    encode,
    real_socket,
)

__all__ = ["ControlClient"]

_MAX_EVENTS = 4096  # that a client has not looked at


class ControlClient:
    """A connection to the engine that writes a trace; one thread uses it.

    Attributes:
        status: the latest status event that was seen.
    """

    def __init__(self, connection: socket.socket, trace: Path, timeout_s: float) -> None:
        self._socket = connection
        self._trace = trace
        self._timeout_s = timeout_s
        self._received = bytearray()
        self._events: deque[dict[str, Any]] = deque(maxlen=_MAX_EVENTS)
        self._number = 0
        self.status: dict[str, Any] = {}

    @classmethod
    def connect(cls, trace: Path, timeout_s: float = 5.0) -> Self:
        """Connect to the engine that writes ``trace``.

        Raises:
            ControlError: no engine listens there, or it does not accept.
        """
        trace = Path(trace).absolute()
        path = real_socket(trace)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(os.fspath(path))
        except OSError as error:
            connection.close()
            raise ControlError(
                f"no engine listens for {trace}; it has ended or was killed."
            ) from error
        return cls(connection, trace, timeout_s)

    def send(self, command: str, **fields: Any) -> dict[str, Any]:
        """Send one command and wait for its reply.

        Raises:
            ControlError: the engine turned it down (its own sentence), is gone, or did not
                answer in time.
        """
        self._number += 1
        line = encode(fields | {"id": self._number, "command": command})
        deadline = time.monotonic() + self._timeout_s

        # Events may arrive before the reply: they are queued, not lost.
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(line)
            while True:
                message = self._next(deadline)
                if message.get("id") == self._number:
                    break
                self._note(message)
        except TimeoutError as error:
            raise ControlError(
                f"the engine did not answer {command!r} within {self._timeout_s:g} s;"
                " it may be busy, look at the trace before sending it again."
            ) from error
        except OSError as error:
            raise self._gone() from error

        if message.get("ok") is not True:
            raise ControlError(str(message.get("error", f"the engine refused {command!r}.")))
        return {key: value for key, value in message.items() if key not in ("v", "id", "ok")}

    def events(self) -> list[dict[str, Any]]:
        """Events that arrived, without waiting, oldest first.

        Raises:
            ControlError: the engine is gone.
        """
        try:
            while True:
                self._note(self._next(time.monotonic()))
        except TimeoutError:
            events = list(self._events)
            self._events.clear()
            return events
        except OSError as error:
            raise self._gone() from error

    def fileno(self) -> int:
        """The connection, for a selector that waits for events."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("event") == "status":
            self.status = message
        if "event" in message:
            self._events.append(message)

    def _next(self, deadline: float) -> dict[str, Any]:
        while (end := self._received.find(b"\n")) < 0:
            # A timeout of 0 would mean "non-blocking", which raises something else.
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionResetError("closed by the engine")
            self._received += data
            if len(self._received) > 2 * LIMIT_BYTES:
                raise ConnectionAbortedError("a message without an end")
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return decode(line)

    def _gone(self) -> ControlError:
        return ControlError(f"the engine that wrote {self._trace} has gone; its trace stays.")
