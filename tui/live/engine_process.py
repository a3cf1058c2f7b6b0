"""The engine as a process of its own: start it, talk to it, tell why it died."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO

from megacontext.traces.errors import MegaContextError

__all__ = ["EngineError", "EngineProcess", "engine_command", "last_line"]

STOP_WAIT_S = 20.0
FULL_BYTES = 16 << 10
"""Less free space than this has no room for a batch of a trace."""


class EngineError(MegaContextError):
    """The engine cannot be started or does not answer."""

    exit_code = 1


def last_line(path: Path) -> str:
    """The last non-empty line of a text file (its last 8 KiB), "" where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - 8192, 0))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    filled = [line.strip() for line in lines if line.strip()]
    return filled[-1] if filled else ""


def engine_command(
    config: Path, trace: Path, overrides: list[str], more: tuple[str, ...] = ()
) -> list[str]:
    """The command line of an engine that runs ``config`` and writes ``trace``; ``more`` options."""
    command = [sys.executable, "-m", "megacontext.core.cli", "run", "--config", str(config)]
    command += ["--out", str(trace), "--no-stdin"]
    for override in overrides:
        command += ["--set", override]
    return [*command, *more]


def _new_log(trace: Path) -> tuple[Path, BinaryIO]:
    """A log that no other engine writes or wrote: ``<trace>.log``, else with a number."""
    for path in _log_names(trace):
        try:
            return path, path.open("xb")
        except FileExistsError:
            continue
    raise AssertionError("there is always one more name")


def _log_names(trace: Path) -> Iterator[Path]:
    yield trace.with_name(f"{trace.name}.log")
    for number in count(2):
        yield trace.with_name(f"{trace.name}.{number}.log")


def _is_full(folder: Path) -> bool:
    """Whether nothing more can be written to ``folder``'s disk."""
    try:
        return shutil.disk_usage(folder).free < FULL_BYTES
    except OSError:
        return False


class EngineProcess:
    """An engine in a session of its own, so that ctrl+c in the viewer spares it.

    Its output goes to a new file ``<trace>.log`` (or ``<trace>.2.log``, …); nothing of it reaches
    the viewer's terminal.

    Raises:
        EngineError: the process cannot be started.
    """

    def __init__(self, command: list[str], trace: Path) -> None:
        try:
            trace.parent.mkdir(parents=True, exist_ok=True)
            self.log, log = _new_log(trace)
            with log:
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

    @property
    def exit_code(self) -> int:
        """How it ended, 0 while it runs."""
        return self._process.poll() or 0

    def problem(self) -> str:
        """Why the engine is gone, "" while it runs or after it ended well."""
        code = self._process.poll()
        if not code:
            return ""
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        last_words = last_line(self.log)
        if not last_words and _is_full(self.log.parent):  # its last words found no room either
            folder = self.log.parent
            last_words = f"the disk of {folder} is full; free some space and go on with --resume."
        return f"The engine died ({how})" + (
            f": {last_words}" if last_words else f"; see {self.log}."
        )

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
