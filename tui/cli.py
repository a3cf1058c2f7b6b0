"""``mc-tui``: live, replay, diff, serve."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Protocol, cast

import typer

from megacontext.traces.errors import ConfigError, MegaContextError

__all__ = ["app", "main"]

MANUAL = "\n\n".join(
    (
        "[bold]Exit status.[/bold] 0: left by its user. 1: the engine died, or a file is damaged. "
        "2: an argument or a file is refused; the sentence names it. 130: ctrl+c.",
        "[bold]Environment.[/bold] COLORTERM, TERM, NO_COLOR: what the terminal can show. "
        "XDG_STATE_HOME: where the first start is remembered.",
        "[bold]Files.[/bold] runs/NAME.arrow: the trace; beside it, while a session runs, .lock, "
        ".sock and .log.",
        "[bold]See also.[/bold] `megacontext --help`; the keys are listed under `?` in the app.",
    )
)

app = typer.Typer(
    name="mc-tui",
    help="Watch a model's working context move: live, or from a trace.\n\n"
    "Example: mc-tui replay runs/demo.arrow",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog=MANUAL,
    pretty_exceptions_enable=False,
)
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
ThemeName = Annotated[
    str, typer.Option("--theme", help="dark, light or ansi; by default what the terminal can do.")
]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mc-tui {version('megacontext')}")
        raise typer.Exit


@app.callback()
def _root(
    version_: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Watch a model's working context move: live, or from a trace.

    Example: mc-tui live --config demo
    """


Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The run's YAML config, or a packaged one: demo."),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Trace to write; default: a dated name in runs/.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override: key.path=value; may repeat.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the trace at --out.")]
Trace = Annotated[Path, typer.Argument(help="The trace (*.arrow).", show_default=False)]


@app.command()
def live(
    config: Config = None,
    out: Out = None,
    set_: Settings = None,
    overwrite: Overwrite = False,
    tree: Annotated[
        Path | None, typer.Option("--tree", help="Keep the tree in this folder (a disk tree).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run recorded at --out.")
    ] = False,
    attach: Annotated[
        Path | None,
        typer.Option("--attach", help="Watch a session that runs already: its trace or socket."),
    ] = None,
    theme: ThemeName = "",
    debug: Debug = False,
) -> None:
    """Start a session in its own process and watch it.

    Example: mc-tui live --config configs/demo.yaml --set focus.n_diff=8
    """
    from megacontext.tui.live.connect import Start, attach_to, start_and_watch

    if config is None and attach is None:
        raise ConfigError("live needs --config FILE or --attach PATH; give one of them.")
    if config is not None and attach is not None:
        raise ConfigError("live got both --config and --attach; drop one of them.")
    if attach is not None:
        last_word = attach_to(attach, theme=theme)
    else:
        assert config is not None
        start = Start(config, out, tuple(set_ or ()), overwrite, tree, resume)
        last_word = start_and_watch(start, theme=theme)
    if last_word:
        typer.echo(last_word)


@app.command()
def replay(
    trace: Annotated[
        Path | None,
        typer.Argument(help="The trace (*.arrow); without it, a list of those in runs/."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Also show rows as they arrive.")
    ] = False,
    at: Annotated[
        str, typer.Option("--at", help="Open there: STEP[.ROUND][:NODE]; L in the app copies it.")
    ] = "",
    theme: ThemeName = "",
    debug: Debug = False,
) -> None:
    """Open a trace: finished, cut by a crash, or still growing.

    Example: mc-tui replay runs/demo.arrow --at 1773.3:L1@47
    """
    from megacontext.tui.launch import choose_trace, require_terminal, show
    from megacontext.tui.sources.file_source import FileSource

    trace = trace or choose_trace(Path("runs"), theme=theme)
    if trace is None:
        return
    require_terminal()
    show(FileSource(trace, mode="FOLLOW" if follow else "REPLAY"), theme=theme, at=at)


@app.command()
def diff(a: Trace, b: Trace, theme: ThemeName = "", debug: Debug = False) -> None:
    """Show two traces side by side on one time axis.

    Example: mc-tui diff runs/greedy.arrow runs/slot.arrow
    """
    from megacontext.tui.launch import require_terminal, show_diff
    from megacontext.tui.sources.file_source import FileSource

    require_terminal()
    show_diff(FileSource(a), FileSource(b), theme=theme)


@app.command()
def serve(
    replay: Annotated[Path | None, typer.Option("--replay", help="Trace to show.")] = None,
    config: Config = None,
    out: Out = None,
    set_: Settings = None,
    overwrite: Overwrite = False,
    attach: Annotated[Path | None, typer.Option("--attach", help="Running session.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8400,
    theme: ThemeName = "",
    debug: Debug = False,
) -> None:
    """Show the same app in a browser on this machine (extra `web`).

    With --config one engine runs for all tabs: a reload comes back to it, ctrl+c here ends it.
    Binds to 127.0.0.1; from elsewhere use an SSH tunnel: ssh -L 8400:127.0.0.1:8400 machine

    Example: mc-tui serve --replay runs/demo.arrow
    """
    from megacontext.tui.live.connect import Start
    from megacontext.tui.live.serve import serve as run_server

    start = Start(config, out, tuple(set_ or ()), overwrite) if config is not None else None
    last_word = run_server(replay=replay, start=start, attach=attach, port=port, theme=theme)
    if last_word:
        typer.echo(last_word)


class _UsageError(Protocol):
    """What typer raises for bad arguments; its class lies in click or in typer, by version."""

    def format_message(self) -> str: ...


_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


_COMMANDS = ("live", "replay", "diff", "serve")


def _command(error: Exception) -> str:
    """The command whose usage was wrong, as it is typed."""
    context = getattr(error, "ctx", None)
    path = str(getattr(context, "command_path", "") or "mc-tui")
    if path == "mc-tui" and sys.argv[1:2] and sys.argv[1] in _COMMANDS:
        return f"mc-tui {sys.argv[1]}"  # typer gives no context with a missing value
    return path if path.startswith("mc-tui") else "mc-tui"


def main() -> None:
    """Run the command line. An error is one sentence and exit code 1 or 2."""
    try:
        raise SystemExit(app(prog_name="mc-tui", standalone_mode=False))
    except MegaContextError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"mc-tui: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except typer.Exit as left:
        raise SystemExit(left.exit_code) from None
    except _USAGE_ERROR as error:
        message = " ".join(cast(_UsageError, error).format_message().split())
        if message:  # without any argument the help was printed already
            typer.echo(f"mc-tui: {message} See {_command(error)} --help.", err=True)
        raise SystemExit(2) from None
    except (typer.Abort, KeyboardInterrupt):
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
