"""Turn the focus's knobs while the engine runs."""

from __future__ import annotations

import contextlib
import math
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Label

from megacontext.tui.screens.dialog import Dialog
from megacontext.tui.screens.prompt import BUTTONS

__all__ = ["KNOBS", "KnobsScreen"]

KNOBS: dict[str, str] = {
    "tau_expand": "a gist scoring above this expands",
    "tau_collapse": "a span scoring below minus this collapses",
    "n_diff": "voluntary actions per round, at most",
    "w_max": "entries in the working context, at most",
}

STEP: dict[str, float] = {"tau_expand": 0.05, "tau_collapse": 0.05, "n_diff": 1.0, "w_max": 32.0}
"""By how much a click on − or + turns a knob."""


class KnobsScreen(Dialog[dict[str, float] | None]):
    """Shows the knobs with their present values; dismisses with those that changed."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(None)", "cancel")]

    def __init__(self, values: dict[str, float]) -> None:
        super().__init__()
        self._values = values

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Label("Knobs of the running engine", classes="dialog-title")
            for name, words in KNOBS.items():
                with Horizontal(classes="knob"):
                    yield Label(name, classes="knob-name", markup=False)
                    yield Label(f"[@click=screen.turn_down('{name}')] − [/]")
                    yield Input(_shown(self._values[name]), id=name, type="number", compact=True)
                    yield Label(f"[@click=screen.turn_up('{name}')] + [/]")
                yield Label(words, classes="dialog-hint", markup=False)
            yield Label("enter applies · tab next · esc cancels", classes="dialog-hint")
            yield Label(BUTTONS, classes="dialog-hint")

    def action_turn_up(self, name: str) -> None:
        self._turn(name, STEP[name])

    def action_turn_down(self, name: str) -> None:
        self._turn(name, -STEP[name])

    def _turn(self, name: str, by: float) -> None:
        """Turn a knob, for the mouse."""
        box = self.query_one(f"#{name}", Input)
        with contextlib.suppress(ValueError):
            box.value = _shown(round(float(box.value) + by, 6))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.action_accept()

    def action_accept(self) -> None:
        """Hand over what changed; where a value is no number, wait for one."""
        changed: dict[str, float] = {}
        for name, old in self._values.items():
            try:
                value = float(self.query_one(f"#{name}", Input).value)
            except ValueError:
                value = math.inf
            if not math.isfinite(value):
                self.query_one(f"#{name}", Input).focus()
                return
            if value != old:
                changed[name] = value
        self.dismiss(changed)


def _shown(value: float) -> str:
    """All digits, so that a value that nobody touched reads back as it was."""
    return str(int(value)) if value.is_integer() else repr(value)
