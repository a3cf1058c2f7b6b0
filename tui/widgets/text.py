"""The text of the selected node, or the newest tokens."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from megacontext.tui.render.text import draw_text, text_titles
from megacontext.tui.state.frame import Frame
from megacontext.tui.widgets.pane import Pane

__all__ = ["TextPane"]


class TextPane(Pane, can_focus=True):
    """With the focus, arrows scroll."""

    number = 4
    draw = staticmethod(draw_text)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "scroll_by(-1)", "scroll up", show=False),
        Binding("down", "scroll_by(1)", "scroll down", show=False),
    ]

    def action_scroll_by(self, lines: int) -> None:
        self.post_message(self.Scrolled(lines))

    class WordPicked(Message):
        """A word was clicked twice: where else is it?"""

        def __init__(self, word: str) -> None:
            super().__init__()
            self.word = word

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        word = self.word_at(offset.x, offset.y) if offset is not None else ""
        if event.chain == 2 and word:
            self.post_message(self.WordPicked(word))

    class Scrolled(Message):
        """The wheel turned over the text, by ``lines``."""

        def __init__(self, lines: int) -> None:
            super().__init__()
            self.lines = lines

    def headings(self, frame: Frame) -> tuple[str, ...]:
        return text_titles(frame.text)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.post_message(self.Scrolled(-1))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.post_message(self.Scrolled(1))
