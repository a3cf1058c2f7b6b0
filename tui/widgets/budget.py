"""Budget and vital signs."""

from __future__ import annotations

from megacontext.tui.render.side import draw_budget
from megacontext.tui.state.frame import Frame
from megacontext.tui.widgets.pane import Pane

__all__ = ["BudgetPane"]


class BudgetPane(Pane):
    draw = staticmethod(draw_budget)

    def headings(self, frame: Frame) -> tuple[str, ...]:
        row = frame.row
        if row is None or not row.w_max:
            return ("Budget",)
        return (
            f"Budget: {row.budget_used / row.w_max:.0%} of w_max entries used",
            f"Budget: {row.budget_used / row.w_max:.0%} used",
        )
