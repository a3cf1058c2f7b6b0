"""The node inspector."""

from __future__ import annotations

from megacontext.tui.frame import Frame
from megacontext.tui.render.inspector import draw_inspector
from megacontext.tui.widgets.pane import Pane

__all__ = ["InspectorPane"]


class InspectorPane(Pane):
    number = 6
    draw = staticmethod(draw_inspector)

    def headings(self, frame: Frame) -> tuple[str, ...]:
        node = frame.view.node
        return (f"Inspector: the life of {node}" if node else "Inspector",)
