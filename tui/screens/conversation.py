"""Ask a question, or go back to one that was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.widgets import Input, Label, OptionList
from textual.widgets.option_list import Option

from megacontext.tui.render.canvas import clean
from megacontext.tui.render.conversation import turn_facts
from megacontext.tui.screens.dialog import Dialog
from megacontext.tui.state.turns import Turn

__all__ = ["ConversationScreen"]


class ConversationScreen(Dialog["str | int | None"]):
    """The turns so far; dismisses with a question to ask, or the row of one to go to.

    Args:
        turns: the conversation, oldest first.
        asking: an engine listens, so that there is a line to type into.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(None)", "cancel")]

    def __init__(self, turns: Sequence[Turn], *, asking: bool) -> None:
        super().__init__()
        self._turns, self._asking = turns, asking

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Label("Conversation", classes="dialog-title")
            yield OptionList(
                *(
                    Option(
                        f"? {clean(turn.question)}\n→ {clean(turn.answer.strip())}\n"
                        f"  {' · '.join(turn_facts(turn, growing=self._asking))}",
                        id=str(turn.row),
                        disabled=turn.row < 0,
                    )
                    for turn in self._turns
                    if turn.row >= 0
                ),
                markup=False,
                id="turns",
            )

            # A line to type into, where an engine listens.
            if self._asking:
                yield Input(placeholder="Ask the running session")
                yield Label("enter asks · ⇧tab the turns above · esc", classes="dialog-hint")
            else:
                yield Label("enter goes to the question's step · esc", classes="dialog-hint")

    def on_mount(self) -> None:
        turns = self.query_one("#turns", OptionList)
        turns.display = bool(turns.option_count)
        turns.highlighted = max(turns.option_count - 1, 0) if turns.option_count else None
        if self._asking:
            self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value if event.value.strip() else None)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(int(str(event.option.id)))
