"""Choose one of the traces that lie in a folder: what ``mc-tui replay`` shows without a trace."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from megacontext.tui.themes import THEMES

__all__ = ["RunsApp", "newest_runs"]

MOST = 200
"""Runs that are offered at most."""


def newest_runs(folder: Path) -> list[Path]:
    """Traces in ``folder``, the newest first."""
    traces = [(path.stat().st_mtime, path) for path in folder.glob("*.arrow")]
    return [path for _, path in sorted(traces, reverse=True)[:MOST]]


class RunsApp(App[Path]):
    """A list of traces; returns the chosen one, None when it is left."""

    CSS = "Screen { layout: vertical; } Static { padding: 0 1; text-style: bold; }"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [("q,escape,ctrl+c", "quit", "quit")]

    def __init__(self, runs: Sequence[Path], *, theme: str = "mc-dark") -> None:
        super().__init__()
        for known in THEMES:
            self.register_theme(known)
        self.theme = theme
        self._runs = list(runs)

    def compose(self) -> ComposeResult:
        where = self._runs[0].parent
        yield Static(f"Runs in {where}, the newest first · enter opens, q quits", markup=False)
        yield OptionList(*(Option(_line(path)) for path in self._runs), markup=False)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.exit(self._runs[event.option_index])


def _line(path: Path) -> str:
    status = path.stat()
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.st_mtime))
    return f"{path.name:<40} {status.st_size / 1e6:8.1f} MB   {written}"
