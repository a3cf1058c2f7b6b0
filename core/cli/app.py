"""The root command: finds its subcommands lazily and turns errors into one sentence."""

from __future__ import annotations

import importlib
import signal
import sys
from importlib.metadata import entry_points, version
from typing import Any

import typer
from typer.core import TyperGroup

from megacontext.core.cli.manual import EXIT_STATUS, MANUAL
from megacontext.traces.errors import MegaContextError

__all__ = ["app", "guard", "main"]

COMMANDS = {
    "run": "megacontext.core.cli.run:app",
    "chat": "megacontext.core.cli.chat:app",
    "trace": "megacontext.core.cli.trace:app",
    "tree": "megacontext.core.cli.tree:app",
    "sim": "",
    "data": "megacontext.core.data.cli:app",
    "train": "megacontext.core.training.cli:app",
    "eval": "megacontext.core.cli.evaluate:app",
    "batch": "megacontext.core.cli.batch:app",
    "bench": "megacontext.core.cli.bench:app",
    "calibrate": "megacontext.core.cli.calibrate:app",
    "configs": "megacontext.core.cli.configs:app",
    "models": "megacontext.core.cli.models:app",
    "doctor": "megacontext.core.cli.doctor:app",
    "lm-eval": "megacontext.core.cli.harness:app",
}
"""Name to ``module:attribute``; an empty target comes from the entry points."""


def _targets() -> dict[str, str]:
    external = {e.name: e.value for e in entry_points(group="megacontext.commands")}
    known = {name: target or external.pop(name, "") for name, target in COMMANDS.items()}
    return {name: target for name, target in (known | external).items() if target}


class _LazyGroup(TyperGroup):
    """Imports a subcommand's module when it is first asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_targets())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        target = _targets().get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        commands: typer.Typer = getattr(importlib.import_module(module), attribute)
        if len(commands.registered_commands) == 1 and commands.registered_callback is None:
            command: Any = typer.main.get_command(commands)  # one command is no group
            command.name = cmd_name
            return _with_exit_status(command)
        parent = typer.Typer(add_completion=False)
        parent.add_typer(commands, name=cmd_name)
        group: Any = typer.main.get_command(parent)
        return _with_exit_status(group.commands[cmd_name])


def _with_exit_status(command: Any) -> Any:
    """``command``, and those below it, with the exit status at the end of the help."""
    for child in getattr(command, "commands", {}).values():
        _with_exit_status(child)
    if not hasattr(command, "commands") and "Exit status" not in (command.help or ""):
        command.epilog = EXIT_STATUS
    return command


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    epilog=MANUAL,
    help="Run, measure and train virtualized context for language models.\n\n"
    "Example: megacontext run --config demo",
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"megacontext {version('megacontext')}")
        raise typer.Exit


@app.callback()
def _root(
    version_: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Run, measure and train virtualized context for language models."""


def guard(run: Any, arguments: list[str]) -> int:
    """Run a typer app; print a :class:`MegaContextError` as one sentence.

    ``--debug`` may stand anywhere and shows the traceback instead. Returns the exit code.
    """
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]

    # Each way to end has its exit code.
    try:
        run(args=arguments)
    except SystemExit as stop:
        if stop.code == 130:  # typer ends so after ctrl+c, without a message
            print("stopped", file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except MegaContextError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone
        return 1
    except OSError as error:
        if debug:
            raise
        label = f"{error.filename}: {error.strerror}" if error.filename else str(error).rstrip(".")
        print(f"error: {label}; check the path and the disk.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def main() -> None:
    """Entry point of ``megacontext``. SIGTERM ends a run as ctrl+c does: with a finished trace."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(guard(app, sys.argv[1:]))
