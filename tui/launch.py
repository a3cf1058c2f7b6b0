"""From a source to an app on a terminal."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from megacontext.traces.errors import ConfigError, MegaContextError
from megacontext.tui.app import InspectorApp
from megacontext.tui.diff_app import DiffApp
from megacontext.tui.screens.runs import RunsApp, newest_runs
from megacontext.tui.settings import user_keymap, user_themes
from megacontext.tui.share import open_at
from megacontext.tui.sources.source import Source
from megacontext.tui.themes import PALETTES, add_theme

__all__ = [
    "InspectorError",
    "TerminalError",
    "is_first_run",
    "pick_theme",
    "require_terminal",
    "show",
    "show_diff",
]


class TerminalError(MegaContextError):
    """There is no terminal to draw on, or an unknown theme was asked for."""


class InspectorError(MegaContextError):
    """The inspector itself failed; its traceback is on the terminal already."""

    exit_code = 1


def require_terminal() -> None:
    """Raise :class:`TerminalError` unless a person can see and type."""
    if os.environ.get("TEXTUAL_DRIVER"):  # served to a browser
        return
    screen = sys.__stderr__  # Textual draws there, so that stdout stays free
    if not (sys.stdin.isatty() and screen is not None and screen.isatty()):
        raise TerminalError(
            "mc-tui needs a terminal and stdin or stderr is none; run it in one, or use"
            " `megacontext trace info` or `megacontext trace export` on the trace."
        )
    if os.environ.get("TERM", "") in ("dumb", "unknown"):
        raise TerminalError(
            f"TERM={os.environ['TERM']} cannot place the cursor; set TERM to your terminal's name,"
            " for example xterm-256color."
        )


def forget_old_size() -> None:
    """Let the terminal itself say how large it is, now and after every resize.

    ``COLUMNS`` and ``LINES`` of the environment would win over it, and a shell or a program that
    uses readline leaves the size there that its own terminal had.
    """
    if os.environ.get("TEXTUAL_DRIVER"):  # a browser's size comes that way
        return
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)


def pick_theme(asked: str) -> str:
    """The theme that was asked for, or one that this terminal can show.

    Raises:
        TerminalError: there is no such theme.
        ConfigError: a person's own theme file cannot be used.
    """
    for palette, dark in user_themes().values():
        add_theme(palette, dark=dark)
    if asked:
        name = asked if asked in PALETTES else f"mc-{asked}"
        if name not in PALETTES:
            known = ", ".join(known.removeprefix("mc-") for known in PALETTES)
            raise TerminalError(f"--theme {asked!r} is unknown; choose one of {known}.")
        return name
    colours = os.environ.get("COLORTERM", "") + os.environ.get("TERM", "")
    plenty = any(word in colours for word in ("truecolor", "24bit", "256", "direct"))
    return "mc-dark" if plenty and "NO_COLOR" not in os.environ else "mc-ansi"


def is_first_run() -> bool:
    """Whether this person has never opened the inspector; remembers that they have now."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    seen = state / "megacontext" / "inspector-seen"
    try:
        if seen.exists():
            return False
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.touch()
    except OSError:
        return False  # a home that cannot be written: no hint rather than one at every start
    return True


def choose_trace(folder: Path, *, theme: str = "") -> Path | None:
    """Let a person choose one of the traces in ``folder``; None when they leave.

    Raises:
        ConfigError: there is none.
    """
    runs = newest_runs(folder)
    if not runs:
        raise ConfigError(f"replay needs a trace, and {folder}/ has none; give its path.")
    require_terminal()
    forget_old_size()
    return RunsApp(runs, theme=pick_theme(theme)).run()


def show(source: Source, *, theme: str = "", notice: str = "", at: str = "") -> str:
    """Run the app on ``source`` until it is left; returns what :class:`InspectorApp` returns.

    Args:
        source: closed at the end.
        theme: one of the themes' names; by default what the terminal can do.
        notice: what the story line says first.
        at: where to open, ``STEP[.ROUND][:NODE]``.

    Raises:
        ConfigError: ``at`` is no place in this run.
        InspectorError: the app failed.
    """
    require_terminal()
    forget_old_size()
    name, keys = pick_theme(theme), user_keymap()
    gc.freeze()  # what imports left behind need not be looked at by every later collection
    try:
        inspector = InspectorApp(source, theme=name, notice=notice, hint=not at and is_first_run())
        inspector.set_keymap(keys)
        if at:
            open_at(inspector.session, at)
        result = inspector.run() or ""
        _check_exit(inspector)
        return result
    finally:
        source.close()


def _check_exit(app: InspectorApp) -> None:
    """Raise :class:`InspectorError` where the app ended by an exception, which it has printed."""
    if app.return_code:
        raise InspectorError(
            "the inspector failed, please report the traceback above; nothing was written to the"
            " trace."
        )


def show_diff(first: Source, second: Source, *, theme: str = "") -> None:
    """Run the diff view until it is left."""
    require_terminal()
    forget_old_size()
    try:
        app = DiffApp(first, second, theme=pick_theme(theme))
        app.set_keymap(user_keymap())
        app.run()
        _check_exit(app)
    finally:
        first.close()
        second.close()
