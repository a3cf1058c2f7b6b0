"""Starting a live session, or joining one that runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megacontext.traces.control import ControlClient, ControlError, socket_path
from megacontext.traces.errors import ConfigError
from megacontext.traces.files import is_locked
from megacontext.traces.packaged import config_hint, find_config
from megacontext.traces.paths import lock_path
from megacontext.traces.target import check_target, claim, dated
from megacontext.tui.launch import InspectorError, require_terminal, show
from megacontext.tui.live.engine_control import EngineControl
from megacontext.tui.live.engine_process import EngineError, EngineProcess, engine_command
from megacontext.tui.sources.live_source import LiveSource, identity
from megacontext.tui.sources.source import Control

STARTING = "The engine is starting; the first step appears when the model is loaded."

__all__ = ["Start", "attach_to", "connector", "start_and_watch", "start_engine", "trace_of"]


@dataclass(frozen=True)
class Start:
    """A run to start.

    Attributes:
        out: the trace; a dated name in ``runs/`` where it is None.
        overrides: ``key=value`` of the config.
        overwrite: a trace at ``out`` may be replaced.
        tree: folder of a disk tree.
        resume: go on with the run at ``out``.
    """

    config: Path
    out: Path | None = None
    overrides: tuple[str, ...] = ()
    overwrite: bool = False
    tree: Path | None = None
    resume: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """The engine's further options."""
        tree = ("--tree", str(self.tree)) if self.tree is not None else ()
        flags = {"--overwrite": self.overwrite, "--resume": self.resume}
        return (*tree, *(name for name, on in flags.items() if on))


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


def start_engine(start: Start) -> tuple[EngineProcess, Path]:
    """Start an engine; returns it and its trace.

    Raises:
        ConfigError: the config file is missing, or the trace is there already.
        LockedError: another run writes that trace.
        EngineError: the process cannot be started.
    """
    config = find_config(start.config)
    if not config.is_file():
        raise ConfigError(f"--config {config} is no file; {config_hint(config)}")
    if start.resume and start.out is None:
        raise ConfigError("--resume needs --out with the trace of the run that goes on.")
    trace = start.out or dated(config.stem)
    check_target(trace, overwrite=start.overwrite, resume=start.resume)
    claim(trace, overwrite=start.overwrite, resume=start.resume).release()  # the engine claims it
    command = engine_command(config, trace, list(start.overrides), start.options)
    return EngineProcess(command, trace), trace


def start_and_watch(start: Start, *, theme: str) -> str:
    """Start an engine and show it; returns a last word for the terminal.

    Raises:
        ConfigError, LockedError, EngineError: see :func:`start_engine`; or the engine died while
            it was watched.
    """
    require_terminal()
    stale = identity(start.out) if start.out is not None and not start.resume else None
    engine, trace = start_engine(start)
    source = LiveSource(trace, engine=engine, connect=connector(trace), stale=stale)

    # The engine outlives a viewer that fails.
    try:
        left = show(source, theme=theme, notice=STARTING)
    except InspectorError:
        if not engine.running:
            raise
        raise InspectorError(
            f"the inspector failed, please report the traceback above; the engine runs on (process"
            f" {engine.pid}), mc-tui live --attach {trace} returns to it."
        ) from None

    # It outlives one that detaches, too; any other way of leaving ends it.
    if left == "detach" and engine.running:
        again = f"mc-tui live --attach {trace}"
        return f"The engine runs on (process {engine.pid}); {again} returns to it."
    died = engine.problem()
    if left != "stop" or not engine.wait():
        engine.terminate()
        engine.wait()
    if died:
        raise dead_engine(engine)
    return f"Trace: {trace}. mc-tui replay {trace} opens it again."


def dead_engine(engine: EngineProcess) -> EngineError:
    """The error of an engine that died: its last words, and where all of them are."""
    died = engine.problem()
    end = "" if died.endswith((".", "?")) else "."
    log = "" if str(engine.log) in died else f" The whole log is {engine.log}."
    error = EngineError(f"{died}{end}{log}")
    error.exit_code = 2 if engine.exit_code == 2 else 1
    return error


def trace_of(path: Path) -> Path:
    """The trace that ``path``, a trace or its control socket, belongs to.

    Raises:
        ConfigError: neither is there, nor is an engine about to write it.
    """
    trace = path.with_suffix("") if path.suffix == ".sock" else path
    if not trace.exists() and not is_locked(lock_path(trace)):
        raise ConfigError(f"--attach {path} does not exist; give a running session's trace.")
    return trace


def attach_to(path: Path, *, theme: str) -> str:
    """Watch a session that another process started; leaving detaches or stops it."""
    require_terminal()
    trace = trace_of(path)
    show(LiveSource(trace, connect=connector(trace)), theme=theme)
    return ""
