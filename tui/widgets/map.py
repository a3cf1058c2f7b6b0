"""The map: the tree's levels as tracks."""

from __future__ import annotations

from megacontext.tui.frame import Frame
from megacontext.tui.render.history import draw_map
from megacontext.tui.render.marks import compact
from megacontext.tui.widgets.shared import HistoryPane

__all__ = ["MapPane"]


class MapPane(HistoryPane):
    number = 1
    draw = staticmethod(draw_map)

    def heading(self, frame: Frame) -> str:
        window, row = frame.view.window, frame.row
        if row is None:
            return "Map"
        if window.whole:
            return f"Map: what the model sees of all {row.history:,} tokens"
        return f"Map: tokens {window.start:,.0f}–{window.stop:,.0f} of {compact(row.history)}"
