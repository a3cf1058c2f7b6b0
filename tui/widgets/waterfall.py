"""The waterfall: focus over time."""

from __future__ import annotations

from megacontext.tui.frame import Frame
from megacontext.tui.render.history import draw_waterfall, scale_legend, scale_words
from megacontext.tui.widgets.shared import HistoryPane

__all__ = ["WaterfallPane"]


class WaterfallPane(HistoryPane):
    number = 3
    draw = staticmethod(draw_waterfall)
    needs_texture = True

    def headings(self, frame: Frame) -> tuple[str, ...]:
        what = "level of detail" if frame.view.show_detail else scale_words(frame)
        signs = "[$success]+[/] expanded [$mc-fold]−[/] collapsed"
        ramp = "" if frame.view.show_detail else f" · {scale_legend(frame)}"
        return (
            f"Waterfall: scores, time ↓, newest at the bottom, {what}{ramp} · {signs}"
            if ramp
            else f"Waterfall: {what}, time ↓, newest at the bottom · {signs}",
            f"Waterfall: time ↓, {what}{ramp} · {signs}",
            f"Waterfall: {what}{ramp}",
            f"Waterfall: {what}",
        )
