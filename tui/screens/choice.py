"""A question with a few answers: leaving a live session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Label, OptionList
from textual.widgets.option_list import Option

from megacontext.tui.screens.dialog import Dialog

__all__ = ["ChoiceScreen"]


class ChoiceScreen(Dialog[str | None]):
    """Lets a person pick one of ``choices`` (id, key, sentence); None on escape."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(None)", "cancel")]

    def __init__(self, title: str, choices: Sequence[tuple[str, str, str]]) -> None:
        super().__init__()
        self._title, self._choices = title, choices
        for name, key, sentence in choices:
            self._bindings._add_binding(Binding(key, f"pick('{name}')", sentence, show=False))

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Label(self._title, classes="dialog-title", markup=False)
            yield OptionList(
                *(Option(f"{key}  {text}", id=name) for name, key, text in self._choices),
                markup=False,
            )

    def action_pick(self, name: str) -> None:
        self.dismiss(name)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)
