"""The conversation with a running engine, or the one that a trace holds."""

from __future__ import annotations

from textual import events
from textual.message import Message

from megacontext.tui.render.conversation import draw_conversation, talk_lines
from megacontext.tui.state.frame import Frame
from megacontext.tui.widgets.pane import Pane

__all__ = ["ConversationPane"]


class ConversationPane(Pane):
    number = 8
    draw = staticmethod(draw_conversation)

    class Picked(Message):
        """A turn was clicked, whose question came with row ``row``."""

        def __init__(self, row: int) -> None:
            super().__init__()
            self.row = row

    def headings(self, frame: Frame) -> tuple[str, ...]:
        ask = " · i ask" if frame.status.controllable else ""
        count = len(frame.turns)
        turns = f"{count:,} turn{'s' if count != 1 else ''}"
        return (f"Conversation: {turns}{ask} · j list", f"Conversation: {turns}", "Conversation")

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or self.frame is None:
            return
        lines = talk_lines(self.frame, self.size.width, self.size.height)
        if offset.y < len(lines) and lines[offset.y].row >= 0:
            self.post_message(self.Picked(lines[offset.y].row))
