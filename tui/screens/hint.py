"""What a person sees the first time: the picture in four lines."""

from __future__ import annotations

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.widgets import Static

from megacontext.tui.screens.dialog import Dialog
from megacontext.tui.screens.legend import coloured

__all__ = ["HintScreen"]

LINES: tuple[tuple[str, str], ...] = (
    ("The picture", "a long text from left (old) to right (new). Cyan ▀: the model reads every"
     " word. Violet ▄ and slate █: it sees a summary."),
    ("Time", "runs down in the waterfall. Bright: the lens wants a closer look there."),
    ("Why", "the sentence at the bottom says what this step expanded (+) or collapsed (−), and"
     " why."),
)  # fmt: skip
TRY = (
    "enter: closer to what the first question expanded, and why. ] next marker, e worst"
    " moments. space plays, esc goes back, ? explains everything."
)
TRY_LIVE = (
    "i: ask the running session, and see what the question expands. f and enter: closer to the"
    " latest action, and why. space holds the view, end follows again, ? explains everything."
)


class HintScreen(Dialog[None]):
    """Shown once; any key or click closes it.

    Args:
        live: an engine listens.
    """

    def __init__(self, *, live: bool = False) -> None:
        super().__init__()
        self._lines = (*LINES, ("Try", TRY_LIVE if live else TRY))

    def compose(self) -> ComposeResult:
        text = Text()
        for title, body in self._lines:
            text.append(f"{title}: ", "bold")
            text.append(f"{body}\n")
        text.append("\nAny key starts.", "italic")
        yield Static(coloured(text, self.app.theme), id="hint")

    def on_mount(self) -> None:
        self.query_one("#hint").border_title = "MegaContext Inspector"

    def on_key(self, event: events.Key) -> None:
        event.stop()
        self.dismiss()

    def on_click(self) -> None:
        self.dismiss()
