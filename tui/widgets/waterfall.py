"""The waterfall: focus over time."""

from __future__ import annotations

from megacontext.tui.frame import Frame
from megacontext.tui.render.history import draw_waterfall
from megacontext.tui.widgets.shared import HistoryPane

__all__ = ["WaterfallPane"]


class WaterfallPane(HistoryPane):
    number = 3
    draw = staticmethod(draw_waterfall)
    needs_texture = True

    def headings(self, frame: Frame) -> tuple[str, ...]:
        what = "level of detail" if frame.view.show_detail else "scores"
        legend = "[$success]+[/] opened [$mc-fold]−[/] folded"
        return (
            f"Waterfall: {what}, time ↓, newest at the bottom · {legend}",
            f"Waterfall: {what}, time ↓ · {legend}",
            f"Waterfall: {what}, time ↓",
        )
