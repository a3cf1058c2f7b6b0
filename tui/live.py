"""Starting a live session, or joining one that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megacontext.traces.control import ControlClient, ControlError, socket_path
from megacontext.traces.errors import ConfigError
from megacontext.traces.packaged import config_hint, find_config
from megacontext.tui.engine import EngineControl, EngineError, EngineProcess, engine_command
from megacontext.tui.launch import require_terminal, show
from megacontext.tui.live_source import LiveSource, identity
from megacontext.tui.source import Control

STARTING = "The engine is starting; the first step appears when the model is loaded."

__all__ = ["attach_to", "connector", "start_and_watch", "trace_of"]


def connector(trace: Path) -> Callable[[], Control | None]:
    """A function that connects to the engine which writes ``trace``, once it listens."""

    def connect() -> Control | None:
        if not socket_path(trace).exists():
            return None
        try:
            return EngineControl(ControlClient.connect(trace))
        except ControlError:
            return None  # it is just starting or just ending; the next tick asks again

    return connect


def start_and_watch(config: Path, out: Path | None, overrides: list[str], *, theme: str) -> str:
    """Start an engine on ``config`` and show it; returns a last word for the terminal.

    Raises:
        ConfigError: the config file is missing.
        EngineError: the engine cannot be started, or died while it was watched.
    """
    require_terminal()
    config = find_config(config)
    if not config.is_file():
        raise ConfigError(f"--config {config} is no file; {config_hint(config)}")
    trace = out or Path("runs") / f"{config.stem}.arrow"
    stale = identity(trace)
    engine = EngineProcess(engine_command(config, trace, overrides), trace)
    source = LiveSource(trace, engine=engine, connect=connector(trace), stale=stale)
    left = show(source, theme=theme, notice=STARTING)
    if left == "detach" and engine.running:
        again = f"mc-tui live --attach {trace}"
        return f"The engine runs on (process {engine.pid}); {again} returns to it."
    died = engine.problem()
    if left != "stop" or not engine.wait():
        engine.terminate()
        engine.wait()
    if died:
        end = "" if died.endswith((".", "?")) else "."
        raise EngineError(f"{died}{end} The whole log is {engine.log}.")
    return f"Trace: {trace}. mc-tui replay {trace} opens it again."


def trace_of(path: Path) -> Path:
    """The trace that ``path``, a trace or its control socket, belongs to.

    Raises:
        ConfigError: neither is there.
    """
    trace = path.with_suffix("") if path.suffix == ".sock" else path
    if not trace.exists():
        raise ConfigError(f"--attach {path} does not exist; give a running session's trace.")
    return trace


def attach_to(path: Path, *, theme: str) -> str:
    """Watch a session that another process started; leaving detaches or stops it."""
    require_terminal()
    trace = trace_of(path)
    show(LiveSource(trace, connect=connector(trace)), theme=theme)
    return ""
