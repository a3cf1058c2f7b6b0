"""Panes with time as their x axis: the scrubber, and what shares its mouse."""

from __future__ import annotations

from textual import events
from textual.message import Message

from megacontext.tui.render.bars import draw_scrubber, row_at
from megacontext.tui.widgets.pane import Pane

__all__ = ["Scrubber", "TimePane"]


class TimePane(Pane):
    """Click or drag to any row."""

    class Sought(Message):
        """A row was pointed at."""

        def __init__(self, row: int) -> None:
            super().__init__()
            self.row = row

    def row_at(self, event: events.MouseEvent) -> int | None:
        """The row under the pointer."""
        raise NotImplementedError

    def _seek(self, event: events.MouseEvent) -> None:
        row = self.row_at(event) if self.frame is not None else None
        if row is not None:
            self.post_message(self.Sought(row))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self.capture_mouse()
        self._seek(event)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if event.button:
            self._seek(event)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        self.release_mouse()


class Scrubber(TimePane):
    """The run as a line. A click on or near a marker or its name goes to just that marker."""

    draw = staticmethod(draw_scrubber)

    def row_at(self, event: events.MouseEvent) -> int | None:
        if self.frame is None:
            return None
        x = int(event.screen_x - self.content_region.x)
        y = int(event.screen_y - self.content_region.y)
        snap = isinstance(event, events.MouseDown)
        return row_at(self.frame, x, self.size.width, y if snap else None)
