"""The heat strip: the lens's scores of this step."""

from __future__ import annotations

from megacontext.tui.frame import Frame
from megacontext.tui.render.history import draw_heat, score_scale
from megacontext.tui.render.marks import signed
from megacontext.tui.widgets.shared import HistoryPane

__all__ = ["HeatPane"]


class HeatPane(HistoryPane):
    number = 2
    draw = staticmethod(draw_heat)
    needs_texture = True

    def headings(self, frame: Frame) -> tuple[str, ...]:
        low, high = score_scale(frame)
        scale = "this step's range" if frame.view.scale_per_step else "fixed scale"
        legend = "[$mc-cold]█[/] leave [$mc-hot]█[/] look closer"
        return (
            f"Heat: what the lens wants now ({signed(low)}…{signed(high)}, {scale}) · {legend}",
            f"Heat: scores now, {scale} · {legend}",
            f"Heat: {scale} {legend}",
            f"Heat: {scale}",
        )
