"""The same app in a browser, through textual-serve, on this machine only."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

from megacontext.traces.errors import ConfigError, MegaContextError
from megacontext.traces.reader import TraceReader

__all__ = ["HOST", "command_of", "serve"]

HOST = "127.0.0.1"


class WebError(MegaContextError):
    """The extra ``web`` is not installed."""


def command_of(replay: Path | None, config: Path | None, attach: Path | None) -> list[str]:
    """The command that every browser tab runs.

    Raises:
        ConfigError: none or several of the three were given.
        TraceError: the trace cannot be opened.
    """
    given = [path for path in (replay, config, attach) if path is not None]
    if len(given) != 1:
        raise ConfigError("serve needs exactly one of --replay, --config and --attach.")
    head = [sys.executable, "-m", "megacontext.tui.cli"]
    if replay is not None:
        reader = TraceReader.open(replay)  # a bad trace is a sentence here, not in the browser
        follow = ["--follow"] if reader.being_written() else []
        reader.close()
        return [*head, "replay", str(replay), "--theme", "dark", *follow]
    if config is not None:
        return [*head, "live", "--config", str(config), "--theme", "dark"]
    return [*head, "live", "--attach", str(attach), "--theme", "dark"]


def serve(*, replay: Path | None, config: Path | None, attach: Path | None, port: int) -> None:
    """Serve until interrupted.

    Raises:
        WebError: textual-serve is missing.
    """
    command = command_of(replay, config, attach)
    try:
        server = importlib.import_module("textual_serve.server")
    except ImportError:
        raise WebError(
            "mc-tui serve needs textual-serve; install it with `pip install megacontext[web]`."
        ) from None
    server.Server(shlex.join(command), host=HOST, port=port, title="mc-tui").serve()
