"""The heat strip: the lens's scores of this step."""

from __future__ import annotations

from megacontext.tui.render.history import draw_heat, scale_legend, scale_words
from megacontext.tui.state.frame import Frame
from megacontext.tui.widgets.shared import HistoryPane

__all__ = ["HeatPane"]


class HeatPane(HistoryPane):
    number = 2
    draw = staticmethod(draw_heat)
    needs_texture = True

    def headings(self, frame: Frame) -> tuple[str, ...]:
        label, legend = scale_words(frame), scale_legend(frame, texture=self.texture)
        return (
            f"Heat: what the lens wants now, {label} · {legend} look closer",
            f"Heat: scores now, {label} · {legend}",
            f"Heat: {label} {legend}",
            f"Heat: {label}",
        )
