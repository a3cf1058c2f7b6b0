"""The local channel between an engine process and an inspector: the engine's side.

The server lives in the engine: one thread owns the sockets, the session loop polls. Nothing a
client sends or leaves unread can block or end the session.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import socket
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from megacontext.traces.control_client import ControlClient
from megacontext.traces.control_protocol import (
    COMMANDS,
    LIMIT_BYTES,
    ControlError,
    decode,
    encode,
    fits,
    socket_path,
)
from megacontext.traces.errors import LockedError, TraceError

__all__ = ["COMMANDS", "Command", "ControlClient", "ControlError", "ControlServer", "socket_path"]

_MAX_CLIENTS = 16
_MAX_WAITING = 256  # commands that the session has not polled yet
_MAX_UNREAD_BYTES = 4 << 20  # towards one client; then it is dropped


@dataclass(slots=True, eq=False)
class _Client:
    """One connection, owned by the server's thread; ``out`` is guarded by the server's lock."""

    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    out: bytearray = field(default_factory=bytearray)
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a client. Answer it exactly once with :meth:`reply`."""

    name: str
    fields: dict[str, Any]
    _id: object
    _client: _Client
    _server: ControlServer

    def reply(self, *, ok: bool = True, **fields: Any) -> None:
        """Answer the client; a client that has gone is no error."""
        self._server._send(self._client, {"id": self._id, "ok": ok} | fields)


class ControlServer:
    """Listens at ``<trace>.sock``, for its owner only.

    Where that path is too long for a socket, the socket lies in a private temporary folder and
    ``<trace>.sock`` is a file with its path.

    Raises:
        LockedError: another live engine listens there.
        TraceError: the socket cannot be made.
    """

    def __init__(self, trace: Path) -> None:
        self._name = socket_path(Path(trace).absolute())
        self._folder: Path | None = None
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._clients: set[_Client] = set()
        self._closing = False
        try:
            self._listener = self._listen(Path(trace))
        except OSError as error:
            raise TraceError(
                f"the control socket {self._name} cannot be made ({error.strerror or error});"
                " choose another folder for the trace."
            ) from error

        # A byte in this socket pair wakes the thread out of its wait.
        self._waker, self._wakened = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._waker.setblocking(False)  # a full one has woken the thread already
        for sock in (self._listener, self._wakened):
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)

        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def _listen(self, trace: Path) -> socket.socket:
        if self._name.exists() or self._name.is_symlink():
            with contextlib.suppress(ControlError):
                ControlClient.connect(trace).close()
                raise LockedError(f"another engine listens at {self._name}; stop it first.")
            self._name.unlink()  # left behind by a killed engine

        target = self._name
        if not fits(target):
            self._folder = Path(tempfile.mkdtemp(prefix="megacontext-"))  # mode 0700
            target = self._folder / "control.sock"

        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(OSError):  # Linux: the mode is right from the first moment
                os.fchmod(listener.fileno(), 0o600)
            listener.bind(os.fspath(target))
            target.chmod(0o600)
            listener.listen(_MAX_CLIENTS)
            if target != self._name:
                self._name.write_text(os.fspath(target))
        except BaseException:
            listener.close()
            raise
        return listener

    def poll(self, timeout_s: float = 0.0) -> list[Command]:
        """Commands that arrived since the last call, in order.

        With ``timeout_s`` it waits that long for a first one.
        """
        commands: list[Command] = []
        try:
            commands.append(self._commands.get(block=timeout_s > 0, timeout=timeout_s or None))
            while True:
                commands.append(self._commands.get_nowait())
        except queue.Empty:
            return commands

    def broadcast(self, event: str = "status", **fields: Any) -> None:
        """Send an event to every client."""
        for client in list(self._clients):
            self._send(client, {"event": event} | fields)

    def close(self) -> None:
        """Stop listening, remove the socket and let every client know; idempotent."""
        if self._closing:
            return
        self._closing = True
        self._wake()
        self._thread.join()
        with contextlib.suppress(FileNotFoundError):
            if self._folder is not None:
                (self._folder / "control.sock").unlink()
                self._folder.rmdir()
        self._name.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ the server's thread

    def _serve(self) -> None:
        while not self._closing:
            for key, events in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wakened:
                    self._wakened.recv(4096)
                else:
                    self._attend(key.data, events)
            self._update_interest()
        for client in list(self._clients):
            self._flush(client)
            self._drop(client)
        self._selector.close()
        for sock in (self._listener, self._waker, self._wakened):
            sock.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # the client gave up before it was accepted
        if len(self._clients) >= _MAX_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = _Client(connection)
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _attend(self, client: _Client, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush(client)
        if not events & selectors.EVENT_READ or client.dropped:
            return

        try:
            data = client.socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return

        # A message ends at a line feed; what follows the last one waits for the next packet.
        client.received += data
        while (end := client.received.find(b"\n")) >= 0:
            line = bytes(client.received[:end])
            del client.received[: end + 1]
            self._receive(client, line)
        if len(client.received) > LIMIT_BYTES:
            self._refuse(client, None, f"a message may have {LIMIT_BYTES:,} bytes at most.")
            self._flush(client)
            self._drop(client)

    def _receive(self, client: _Client, line: bytes) -> None:
        number: object = None
        try:
            message = decode(line)
            number = message.pop("id", None)
            name = message.pop("command", None)
            if not isinstance(name, str) or name not in COMMANDS:
                names = ", ".join(sorted(COMMANDS))
                raise ControlError(f"command is {str(name)[:80]!r}; use one of {names}.")
            if self._commands.qsize() >= _MAX_WAITING:
                raise ControlError("the engine is busy; wait for its answers first.")
        except ControlError as error:
            self._refuse(client, number, str(error))
            return
        del message["v"]
        self._commands.put(Command(name, message, number, client, self))

    def _refuse(self, client: _Client, number: object, error: str) -> None:
        self._send(client, {"id": number, "ok": False, "error": error})

    def _flush(self, client: _Client) -> None:
        with self._lock:
            try:
                sent = client.socket.send(client.out) if client.out else 0
            except BlockingIOError:
                return
            except OSError:
                client.dropped = True
                return
            del client.out[:sent]

    def _drop(self, client: _Client) -> None:
        client.dropped = True
        self._clients.discard(client)
        with contextlib.suppress(KeyError):  # it was dropped in this very turn
            self._selector.unregister(client.socket)
        client.socket.close()

    def _update_interest(self) -> None:
        for client in list(self._clients):
            if client.dropped or len(client.out) > _MAX_UNREAD_BYTES:
                self._drop(client)
                continue
            interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.out else 0)
            self._selector.modify(client.socket, interest, client)

    # ------------------------------------------------------------------ any thread

    def _send(self, client: _Client, message: dict[str, Any]) -> None:
        line = encode(message)
        with self._lock:
            if client.dropped:
                return
            client.out += line
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # closed meanwhile: nobody is left to wake
            self._waker.send(b"\0")
