"""The scrubber: click or drag to any row."""

from __future__ import annotations

from textual import events
from textual.message import Message

from megacontext.tui.render.bars import draw_scrubber, row_at
from megacontext.tui.widgets.pane import Pane

__all__ = ["Scrubber"]


class Scrubber(Pane):
    draw = staticmethod(draw_scrubber)

    class Sought(Message):
        """A row was pointed at."""

        def __init__(self, row: int) -> None:
            super().__init__()
            self.row = row

    def _seek(self, event: events.MouseEvent) -> None:
        if self.frame is not None:
            x = event.screen_x - self.content_region.x
            self.post_message(self.Sought(row_at(self.frame, int(x), self.size.width)))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self.capture_mouse()
        self._seek(event)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if event.button:
            self._seek(event)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        self.release_mouse()
