"""The engine as a process of its own: start it, talk to it, tell why it died."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

from megacontext.traces.errors import MegaContextError

__all__ = [
    "Channel",
    "EngineControl",
    "EngineError",
    "EngineProcess",
    "engine_command",
    "last_line",
]

STOP_WAIT_S = 20.0
LEAVE_WAIT_S = 2.0


class EngineError(MegaContextError):
    """The engine cannot be started or does not answer."""

    exit_code = 1


class Channel(Protocol):
    """What an :class:`EngineControl` needs of the control socket's client."""

    def send(self, command: str, **fields: Any) -> dict[str, Any]: ...

    def close(self) -> None: ...


def last_line(path: Path) -> str:
    """The last non-empty line of a text file (its last 8 KiB), "" where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - 8192, 0))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    kept = [line.strip() for line in lines if line.strip()]
    return kept[-1] if kept else ""


def engine_command(config: Path, trace: Path, overrides: list[str]) -> list[str]:
    """The command line of an engine that runs ``config`` and writes ``trace``."""
    command = [sys.executable, "-m", "megacontext.core.cli", "run", "--config", str(config)]
    command += ["--out", str(trace), "--no-stdin"]
    for override in overrides:
        command += ["--set", override]
    return command


class EngineProcess:
    """An engine in a session of its own, so that ctrl+c in the viewer spares it.

    Its output goes to ``<trace>.log``; nothing of it reaches the viewer's terminal.

    Raises:
        EngineError: the process cannot be started.
    """

    def __init__(self, command: list[str], trace: Path) -> None:
        self.log = trace.with_name(trace.name + ".log")
        try:
            trace.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=os.environ | {"NO_COLOR": "1", "TERM": "dumb"},
                )
        except OSError as error:
            raise EngineError(f"The engine did not start: {error}.") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def problem(self) -> str:
        """Why the engine is gone, "" while it runs or after it ended well."""
        code = self._process.poll()
        if not code:
            return ""
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        said = last_line(self.log)
        return f"The engine died ({how})" + (f": {said}" if said else f"; see {self.log}.")

    def wait(self, timeout_s: float = STOP_WAIT_S) -> bool:
        """Wait for a stop that was asked for; True when the engine has ended."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self) -> None:
        """Ask the system to end the engine; its trace keeps every whole batch."""
        if self.running:
            self._process.terminate()


class EngineControl:
    """A :class:`megacontext.tui.source.Control` over the engine's control socket.

    Commands are sent by a thread of their own, in order, because the engine answers between two
    of its steps and the screen must not wait for that.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._outbox: queue.SimpleQueue[tuple[str, dict[str, object]] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._paused = False
        self._thread = threading.Thread(target=self._send_all, name="commands", daemon=True)
        self._thread.start()

    def _send_all(self) -> None:
        while (item := self._outbox.get()) is not None:
            command, fields = item
            try:
                reply = self._channel.send(command, **fields)
            except (MegaContextError, OSError) as error:
                self._answers.put(f"{command}: {error}")
            else:
                self._paused = bool(reply.get("paused", self._paused))
        self._channel.close()

    def _put(self, command: str, **fields: object) -> None:
        self._outbox.put((command, fields))

    @property
    def paused(self) -> bool:
        return self._paused

    def answers(self) -> list[str]:
        """What the engine turned down since the last call, one sentence each."""
        found = []
        while not self._answers.empty():
            found.append(self._answers.get())
        return found

    def pause(self) -> None:
        self._put("pause")

    def resume(self) -> None:
        self._put("resume")

    def refocus(self) -> None:
        """One refocus, then the engine waits."""
        self._put("step")

    def knob(self, name: str, value: float) -> None:
        whole = name in ("w_max", "n_diff")
        key = name if name == "w_max" else f"focus.{name}"
        self._put("set", key=key, value=int(value) if whole else value)

    def inject(self, text: str) -> None:
        self._put("text", text=text)

    def marker(self, label: str) -> None:
        self._put("marker", text=label)

    def stop(self) -> None:
        """Ask the engine to end, then let go of it."""
        self._put("stop")
        self._leave()

    def detach(self) -> None:
        """Let go of the engine; a paused one runs on, since nobody else would resume it."""
        if self._paused:
            self.resume()
        self._leave()

    def _leave(self) -> None:
        self._outbox.put(None)
        self._thread.join(LEAVE_WAIT_S)
