"""The part of the app that finds, marks, copies and exports: everything but time and the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from textual.app import App
from textual.await_complete import AwaitComplete

from megacontext.traces.errors import MegaContextError
from megacontext.tui.screens import ChoiceScreen, PromptScreen
from megacontext.tui.share import COPIES, copy_text, free_path, system_clipboard, write
from megacontext.tui.state.action_lines import FILTER_HELP
from megacontext.tui.state.find import EVENTS, EXTREMES, find, find_again, preview
from megacontext.tui.state.viewer import ViewerState
from megacontext.tui.widgets import ActionsPane, Pane

__all__ = ["ToolsApp"]


class ToolsApp(App[str]):
    """Commands that need dialogs, the clipboard or files; the app proper adds panes and time."""

    @property
    def session(self) -> ViewerState:
        """The viewer's state."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Show the present state."""
        raise NotImplementedError

    # -- dialogs ------------------------------------------------------------------------------
    def pop_screen(self) -> AwaitComplete:
        """Close the topmost dialog; the panes stay where a palette is answered twice at once."""
        return super().pop_screen() if len(self.screen_stack) > 1 else AwaitComplete()

    def _ask(
        self, screen: PromptScreen, then: Callable[[str], object], empty: bool = False
    ) -> None:
        def answered(entered: str | None) -> None:
            if entered or (empty and entered is not None):
                then(entered)
            self.redraw()

        self.push_screen(screen, answered)

    def _choose(
        self, title: str, choices: list[tuple[str, str, str]], then: Callable[[str], object]
    ) -> None:
        def chosen(choice: str | None) -> None:
            if choice:
                then(choice)
            self.redraw()

        self.push_screen(ChoiceScreen(title, choices), chosen)

    # -- finding ------------------------------------------------------------------------------
    def ask_find(self) -> None:
        """Offer the run's extremes and its next events."""
        names = {k: f"{'lowest' if e.lowest else 'highest'} {e.name}" for k, e in EXTREMES.items()}
        names |= {k: f"next {name}" for k, name in EVENTS.items()}
        choices = [(k, k, f"{name:<25} {preview(self.session, k)}") for k, name in names.items()]
        self._choose(
            "Go to · then ; next : previous", choices, lambda target: find(self.session, target)
        )

    def find(self, target: str) -> None:
        """Go to one of them at once."""
        find(self.session, target)

    def find_again(self, direction: int) -> None:
        """Repeat the last one."""
        find_again(self.session, direction)

    def get_find_commands(self) -> list[tuple[str, Callable[[], Any]]]:
        """Each of them by name, for the palette."""

        def runner(target: str) -> Callable[[], Any]:
            def run() -> None:
                find(self.session, target)
                self.redraw()

            return run

        names = {k: f"{'Lowest' if e.lowest else 'Highest'} {e.name}" for k, e in EXTREMES.items()}
        names |= {k: f"Next {name}" for k, name in EVENTS.items()}
        return [(name, runner(key)) for key, name in names.items()]

    # -- the action list ----------------------------------------------------------------------
    def ask_filter(self) -> None:
        """Ask what the list's lines must match."""
        self._ask(
            PromptScreen("Filter the actions", FILTER_HELP, self.session.view.log_filter),
            self.filter_actions,
            empty=True,
        )

    def filter_actions(self, entered: str) -> None:
        """Show only lines that match; "/" asks."""
        if entered == "/":
            self.ask_filter()
            return
        self.session.look(
            lambda v: replace(v, log_filter=entered.strip(), log_at=None, log_top=None)
        )

    def on_actions_pane_moved(self, message: ActionsPane.Moved) -> None:
        session = self.session
        shown = session.frame().log
        session.look(lambda v: session.log.moved(shown, v, message.by, message.page))
        self.redraw()

    def on_actions_pane_filtered(self, message: ActionsPane.Filtered) -> None:
        self.filter_actions(message.text)
        self.redraw()

    def on_pane_node_picked(self, message: Pane.NodePicked) -> None:
        self.session.centre(message.node)
        self.redraw()

    def on_actions_pane_picked(self, message: ActionsPane.Picked) -> None:
        line = message.line
        self.session.seek(line.row)
        self.session.centre(line.node)
        self.session.look(lambda v: v.at_line(line.id, message.top))
        self.redraw()

    # -- marks, copies, files -----------------------------------------------------------------
    def ask_mark(self) -> None:
        """Name the present step; with an empty name it gets a number."""
        row = self.session.row
        known = self.session.marks.at(row.number) if row is not None else None
        hint = "a name; what follows a colon is a note, shown on this step · empty: a number"
        screen = PromptScreen("Mark this step", hint, known.label if known else "")
        self._ask(screen, self.session.set_marker, empty=True)

    def ask_copy(self) -> None:
        """Offer what can be copied."""
        choices = [(key, key, words) for key, words in COPIES.items()]
        self._choose("Copy", choices, self.copy)

    def copy(self, what: str) -> None:
        """Put it on the clipboards: the terminal's (OSC 52) and the desktop's."""
        text = copy_text(self.session, what)
        if not text:
            self.session.notice = "Nothing is selected that could be copied."
            return
        self.copy_to_clipboard(text)
        self.run_worker(partial(system_clipboard, text), thread=True, exit_on_error=False)
        shown = " ".join(text.split())
        self.session.notice = f"Copied: {shown[:120]}{'…' if len(shown) > 120 else ''}"

    def ask_export(self) -> None:
        """Offer the files that can be written."""
        choices = [
            ("svg", "s", "this screen as SVG"),
            ("png", "p", "the whole run as PNG: heat and lanes"),
            ("csv", "c", "figures of every step as CSV"),
            ("parquet", "q", "the whole trace as Parquet"),
        ]
        self._choose("Save, in the folder where mc-tui was started", choices, self.export)

    def export(self, kind: str) -> None:
        """Write one of them under a name that nothing has yet."""
        if kind == "svg":
            row = self.session.row
            stem = f"{Path(self.session.info.name).stem or 'mc-tui'}-step{row.step if row else 0}"
            path = free_path(Path.cwd(), stem, ".svg")
            self.deliver_screenshot(filename=path.name, path=str(path.parent))
            return
        try:
            path = write(self.session, kind, Path.cwd())
            self.session.notice = f"Saved as {path.name}."
        except MegaContextError as error:
            self.session.notice = str(error)

    def export_screenshot(self, *, title: str | None = None, simplify: bool = False) -> str:
        """As Textual does, but without colours as light text on dark: it knows only black then."""
        picture = super().export_screenshot(title=title, simplify=simplify)
        if self.no_color:
            picture = picture.replace("fill: #000000", "fill: #c5c8c6")
            picture = picture.replace('rect fill="#000000"', 'rect fill="#292929"')
        return picture
