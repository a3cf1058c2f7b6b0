"""The part of the app that finds, marks, copies and exports: everything but time and the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from textual.app import App

from megacontext.tui.changes import FILTER_HELP
from megacontext.tui.find import EVENTS, EXTREMES, find, find_again
from megacontext.tui.screens import ChoiceScreen, PromptScreen
from megacontext.tui.session import Session
from megacontext.tui.widgets import ActionsPane

__all__ = ["DeskApp"]


class DeskApp(App[str]):
    """Commands that need dialogs, the clipboard or files; the app proper adds panes and time."""

    @property
    def session(self) -> Session:
        """The viewer's state."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Show the present state."""
        raise NotImplementedError

    # -- dialogs ------------------------------------------------------------------------------
    def _ask(
        self, screen: PromptScreen, then: Callable[[str], object], empty: bool = False
    ) -> None:
        def answered(said: str | None) -> None:
            if said or (empty and said is not None):
                then(said)
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
        choices = [
            (key, key, f"{'lowest' if what.lowest else 'highest'} {what.name}")
            for key, what in EXTREMES.items()
        ]
        choices += [(key, key, f"next {name}") for key, name in EVENTS.items()]
        self._choose(
            "Go to · then ; next : previous", choices, lambda wanted: find(self.session, wanted)
        )

    def find(self, wanted: str) -> None:
        """Go to one of them at once."""
        find(self.session, wanted)

    def find_again(self, direction: int) -> None:
        """Repeat the last one."""
        find_again(self.session, direction)

    def get_find_commands(self) -> list[tuple[str, Callable[[], Any]]]:
        """Each of them by name, for the palette."""

        def runner(wanted: str) -> Callable[[], Any]:
            def run() -> None:
                find(self.session, wanted)
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

    def filter_actions(self, said: str) -> None:
        """Show only lines that match; "/" asks."""
        if said == "/":
            self.ask_filter()
            return
        self.session.look(lambda v: replace(v, log_filter=said.strip(), log_at=None, log_top=None))

    def on_actions_pane_moved(self, message: ActionsPane.Moved) -> None:
        session = self.session
        shown = session.frame().log
        session.look(lambda v: session.log.moved(shown, v, message.by, message.page))
        self.redraw()

    def on_actions_pane_filtered(self, message: ActionsPane.Filtered) -> None:
        self.filter_actions(message.said)
        self.redraw()

    def on_actions_pane_picked(self, message: ActionsPane.Picked) -> None:
        line = message.line
        self.session.seek(line.row)
        self.session.centre(line.node)
        self.session.look(lambda v: v.at_line(line.id, message.top))
        self.redraw()
