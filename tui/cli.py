"""``mc-tui``: live, replay, diff, serve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from megacontext.traces.errors import MegaContextError

__all__ = ["app", "main"]

app = typer.Typer(
    name="mc-tui",
    help="Watch a model's working context move: live, or from a trace.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
ThemeName = Annotated[str, typer.Option("--theme", help="mc-dark, mc-light or mc-ansi.")]


@app.command()
def replay(
    trace: Annotated[Path, typer.Argument(help="The trace: finished, cut by a crash or growing.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show rows as they arrive.")
    ] = False,
    theme: ThemeName = "",
    debug: Debug = False,
) -> None:
    """Open a trace.

    Example: mc-tui replay runs/demo.arrow
    """
    from megacontext.tui.file_source import FileSource
    from megacontext.tui.launch import show

    show(FileSource(trace, mode="FOLLOW" if follow else "REPLAY"), theme=theme)


def main() -> None:
    """Run the command line; a user's error is one sentence and exit code 2."""
    try:
        app(standalone_mode=True)
    except MegaContextError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"mc-tui: {error}", err=True)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
