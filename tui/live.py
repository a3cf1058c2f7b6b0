"""Starting a live session, or joining one that runs."""

from __future__ import annotations

from pathlib import Path

from megacontext.traces.control import ControlClient, socket_path
from megacontext.traces.errors import ConfigError, MegaContextError
from megacontext.tui.engine import EngineControl, EngineProcess
from megacontext.tui.launch import require_terminal, show
from megacontext.tui.live_source import LiveSource, identity
from megacontext.tui.source import Control

STARTING = "The engine is starting; the first step appears when the model is loaded."

__all__ = ["attach_to", "connector", "start_and_watch"]


def connector(trace: Path):  # type: ignore[no-untyped-def]
    """A function that connects to the engine which writes ``trace``, once it listens."""

    def connect() -> Control | None:
        if not socket_path(trace).exists():
            return None
        try:
            return EngineControl(ControlClient.connect(trace))
        except (MegaContextError, OSError):
            return None  # it is just starting or just ending; the next tick asks again

    return connect


def start_and_watch(config: Path, out: Path | None, overrides: list[str], *, theme: str) -> str:
    """Start an engine on ``config`` and show it; returns a last word for the terminal.

    Raises:
        ConfigError: the config file is missing.
        EngineError: the engine cannot be started.
    """
    require_terminal()
    if not config.is_file():
        raise ConfigError(
            f"--config {config} is no file; give a YAML config such as configs/demo.yaml."
        )
    trace = out or Path("runs") / f"{config.stem}.arrow"
    arguments = ["--config", str(config), "--out", str(trace)]
    for override in overrides:
        arguments += ["--set", override]
    stale = identity(trace)
    engine = EngineProcess(arguments, trace)
    source = LiveSource(trace, engine=engine, connect=connector(trace), stale=stale)
    left = show(source, theme=theme, notice=STARTING)
    if left == "detach" and engine.running:
        return f"The engine runs on (process {engine.pid}); mc-tui live --attach {trace} returns to it."
    if not engine.wait(0 if left == "" else 20):
        engine.terminate()
        engine.wait()
    return f"Trace: {trace}. mc-tui replay {trace} opens it again."
