"""The node inspector."""

from __future__ import annotations

from textual import events

from megacontext.tui.render.inspector import draw_inspector
from megacontext.tui.state.frame import Frame
from megacontext.tui.widgets.pane import Pane

__all__ = ["InspectorPane", "NamesPane"]


class NamesPane(Pane):
    """A click on a node's name selects that node."""

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        node = self.node_at(offset.x, offset.y) if offset is not None else None
        if node is not None:
            self.post_message(self.NodePicked(node))


class InspectorPane(NamesPane, can_focus=True):
    number = 6
    draw = staticmethod(draw_inspector)

    def headings(self, frame: Frame) -> tuple[str, ...]:
        node = frame.view.node
        return (f"Inspector: the life of {node}" if node else "Inspector",)
