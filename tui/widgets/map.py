"""The map: the tree's levels as tracks."""

from __future__ import annotations

from megacontext.tui.render.history import draw_map
from megacontext.tui.render.marks import compact
from megacontext.tui.state.frame import Frame
from megacontext.tui.widgets.shared import HistoryPane

__all__ = ["MapPane"]


class MapPane(HistoryPane):
    number = 1
    draw = staticmethod(draw_map)

    def headings(self, frame: Frame) -> tuple[str, ...]:
        window, row = frame.view.window, frame.row
        if row is None:
            return ("Map",)
        raw, gist, coarse = "[$mc-l0]▀[/]", "[$mc-l1]▄[/]", "[$mc-l2]█[/]"
        legend = f"{raw} raw: every token  {gist} L1: a gist per block  {coarse} L2 and up: coarser"
        short = f"{raw} raw {gist} L1 {coarse} coarser"
        part = f"tokens {window.start:,.0f}–{window.stop:,.0f} of {compact(row.history)}"
        what = f"what the model sees of all {row.history:,} tokens" if window.whole else part
        few = f"all {row.history:,} tokens" if window.whole else part

        # Where text is searched for, the number of its hits.
        hits = ""
        if frame.view.needle:
            needle = frame.view.needle[:20].replace("[", "(")
            hits = f" · ◇ {len(frame.hits):,} × {needle}"
        what, few = what + hits, few + hits
        titles = (
            f"{what} · {legend}",
            f"{few} · {legend}",
            f"{what} {short}",
            f"{few} {short}",
            few,
        )
        return tuple(f"Map: {text}" for text in titles)
