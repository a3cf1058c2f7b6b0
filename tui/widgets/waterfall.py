"""The waterfall: focus over time."""

from __future__ import annotations

from textual import events

from megacontext.tui.render.history import draw_waterfall, row_under, scale_legend, scale_words
from megacontext.tui.state.frame import Frame
from megacontext.tui.widgets.shared import HistoryPane

__all__ = ["WaterfallPane"]


class WaterfallPane(HistoryPane):
    number = 3
    draw = staticmethod(draw_waterfall)
    needs_texture = True

    def headings(self, frame: Frame) -> tuple[str, ...]:
        label = "level of detail" if frame.view.show_detail else scale_words(frame)
        signs = "[$success]+[/] expanded [$mc-fold]−[/] collapsed"
        ramp = "" if frame.view.show_detail else f" · {scale_legend(frame, texture=self.texture)}"
        return (
            f"Waterfall: scores, time ↓, newest at the bottom, {label}{ramp} · {signs}"
            if ramp
            else f"Waterfall: {label}, time ↓, newest at the bottom · {signs}",
            f"Waterfall: time ↓, {label}{ramp} · {signs}",
            f"Waterfall: {label}{ramp}",
            f"Waterfall:{ramp.replace(' ·', '')}" if ramp else f"Waterfall: {label}",
            f"Waterfall: {label}",
        )

    def row_at(self, event: events.MouseEvent) -> int | None:
        offset = event.get_content_offset(self)
        if self.frame is None or offset is None:
            return None
        return row_under(self.frame, offset.y, self.size.height, texture=self.texture)
