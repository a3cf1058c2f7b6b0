"""Every command's help is a manual page: what it does, an example, each option, the exit status."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from megacontext.core.cli.app import app, guard


def _commands(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    """All commands that are no groups, with what a user types."""
    if not hasattr(command, "list_commands"):
        return [(" ".join(words), command)]
    below = [(name, command.get_command(None, name)) for name in command.list_commands(None)]
    return [leaf for name, inner in below for leaf in _commands(inner, (*words, name))]


COMMANDS = dict(_commands(typer.main.get_command(app)))


def test_the_commands_are_all_there() -> None:
    assert len(COMMANDS) > 45
    assert {"run", "sim fuzz", "data from-traces", "train joint", "eval suite"} <= set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_says_what_it_does_and_how_it_ends(name: str) -> None:
    command = COMMANDS[name]
    assert f"Example: megacontext {name}" in " ".join((command.help or "").split())
    assert "Exit status" in (command.help or "") + (command.epilog or "")
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_the_status_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert guard(app, ["sim", "fuzz", "--help"]) == 0
    assert "Exit status" in capsys.readouterr().out
