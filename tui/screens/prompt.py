"""One line to type: search, go-to, text for the session."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.widgets import Input, Label

from megacontext.tui.screens.dialog import Dialog

__all__ = ["BUTTONS", "PromptScreen"]

BUTTONS = "[@click=screen.accept]✓ ok[/]  [@click=screen.dismiss(None)]✗ cancel[/]"
"""Enter and escape for those who have only a mouse."""


class PromptScreen(Dialog[str | None]):
    """Asks for one line; dismisses with it, or with None on escape."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(None)", "cancel")]

    def __init__(self, title: str, hint: str, value: str = "") -> None:
        super().__init__()
        self._title, self._hint, self._value = title, hint, value

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Label(self._title, classes="dialog-title", markup=False)
            yield Input(self._value, select_on_focus=True)
            yield Label(self._hint, classes="dialog-hint", markup=False)
            yield Label(BUTTONS, classes="dialog-hint")

    def action_accept(self) -> None:
        """What enter does, for the mouse."""
        self.dismiss(self.query_one(Input).value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self.closed:  # a second enter, typed ahead, is meant for what the first one leads to
            self.app.simulate_key("enter")
        self.dismiss(event.value)
