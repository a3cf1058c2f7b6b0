"""The same app in a browser, through textual-serve, on this machine only."""

from __future__ import annotations

import importlib
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from megacontext.traces.errors import ConfigError, MegaContextError
from megacontext.traces.files import is_locked
from megacontext.traces.paths import lock_path
from megacontext.traces.reader import TraceReader
from megacontext.tui.launch import pick_theme
from megacontext.tui.live.connect import Start, dead_engine, start_engine
from megacontext.tui.live.engine_process import EngineProcess

__all__ = ["HOST", "command_of", "serve"]

HOST = "127.0.0.1"
CLAIM_WAIT_S = 60.0


class WebError(MegaContextError):
    """The extra ``web`` is not installed."""


def command_of(replay: Path | None, attach: Path | None, theme: str = "mc-dark") -> list[str]:
    """The command that every browser tab runs: a replay, or a look at a session that runs.

    A tab never starts an engine, so a reload finds the one that was there.

    Raises:
        TraceError: the trace cannot be opened.
    """
    head = [sys.executable, "-m", "megacontext.tui.cli"]
    if replay is not None:
        reader = TraceReader.open(replay)  # a bad trace is a sentence here, not in the browser
        follow = ["--follow"] if reader.being_written() else []
        reader.close()
        return [*head, "replay", str(replay), "--theme", theme, *follow]
    return [*head, "live", "--attach", str(attach), "--theme", theme]


def serve(
    *, replay: Path | None, start: Start | None, attach: Path | None, port: int, theme: str
) -> str:
    """Serve until interrupted; returns a last word for the terminal.

    With ``start`` one engine runs for all tabs and reloads, until it ends or this command does.

    Raises:
        ConfigError: none or several of the three were given.
        WebError: textual-serve is missing.
        EngineError: the engine died before it had a trace.
    """
    if sum(option is not None for option in (replay, start, attach)) != 1:
        raise ConfigError("serve needs exactly one of --replay, --config and --attach.")
    name = pick_theme(theme or "dark")
    if start is None:
        command = command_of(replay, attach, name)
        _serve(_server(), command, port)
        return ""
    server = _server()
    engine, trace = start_engine(start)
    try:
        _until_claimed(engine, trace)
        _serve(server, command_of(None, trace, name), port)
    finally:
        engine.terminate()
        engine.wait()
    return f"Trace: {trace}. mc-tui replay {trace} opens it again."


def _until_claimed(engine: EngineProcess, trace: Path) -> None:
    """Wait until the engine has taken its trace's name; tabs can join it from then on."""
    deadline = time.monotonic() + CLAIM_WAIT_S
    while engine.running and time.monotonic() < deadline:
        if is_locked(lock_path(trace)):
            return
        time.sleep(0.05)
    if engine.problem():
        raise dead_engine(engine)


def _server() -> Any:
    try:
        return importlib.import_module("textual_serve.server")
    except ImportError:
        raise WebError(
            "mc-tui serve needs textual-serve; install it with `pip install megacontext[web]`."
        ) from None


def _serve(server: Any, command: list[str], port: int) -> None:
    server.Server(shlex.join(command), host=HOST, port=port, title="mc-tui").serve()
