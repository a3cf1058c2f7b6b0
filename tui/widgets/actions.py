"""The action log."""

from __future__ import annotations

from textual import events
from textual.message import Message

from megacontext.tui.frame import Frame
from megacontext.tui.render.side import draw_actions, log_lines
from megacontext.tui.view import Node
from megacontext.tui.widgets.pane import Pane

__all__ = ["ActionsPane"]


class ActionsPane(Pane):
    number = 5
    draw = staticmethod(draw_actions)

    class Picked(Message):
        """A line of the log was clicked."""

        def __init__(self, row: int, node: Node) -> None:
            super().__init__()
            self.row, self.node = row, node

    def headings(self, frame: Frame) -> tuple[str, ...]:
        row = frame.row
        if row is None:
            return ("Actions",)
        return (f"Actions: {len(row.actions)} done, {len(row.refused)} refused",)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        lines = log_lines(self.frame, self.size.height) if self.frame is not None else []
        if offset is not None and offset.y < len(lines):
            line = lines[offset.y]
            self.post_message(self.Picked(line.row, line.node))
