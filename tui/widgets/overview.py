"""The overview: the whole run, and a click goes to its telling rows."""

from __future__ import annotations

import numpy as np
from textual import events

from megacontext.tui.render.canvas import Canvas
from megacontext.tui.render.overview import (
    Summary,
    draw_overview,
    heat_lines,
    lanes_at,
    row_of,
    summarise,
    time_axis,
)
from megacontext.tui.state.frame import Frame
from megacontext.tui.widgets.scrubber import TimePane

__all__ = ["OverviewPane"]

FINE = 400
"""A growing run is summarised anew each time it has grown by one part in this many."""


class OverviewPane(TimePane):
    """Summarises the run once per size and growth; drawing is cheap after that."""

    number = 7
    draw = staticmethod(draw_overview)
    needs_texture = True

    def __init__(self) -> None:
        super().__init__()
        self._summary: Summary | None = None
        self._key: tuple[int, ...] = ()

    def cells(self, frame: Frame, width: int, height: int) -> Canvas:
        lines = heat_lines(height) * (1 if self.texture else 2)
        _, inner = time_axis(width)
        run = frame.run
        if run.num_rows and inner >= 8:
            rows = tuple(n - n % max(n // FINE, 1) for n in (run.num_rows, run.vitals.num_rows))
            key = (width, lines, *rows, run.generation)
            if key != self._key or self._summary is None:
                self._summary, self._key = summarise(run, inner, lines), key
        return draw_overview(frame, width, height, texture=self.texture, summary=self._summary)

    def headings(self, frame: Frame) -> tuple[str, ...]:
        if not frame.run.num_rows:
            return ("Run",)
        read = frame.run.vitals.num_rows / frame.run.num_rows
        reading = "" if read >= 1 else f" · reading {read:.0%}"
        said = "Run: time →, history ↓, brightest score of each stretch"
        return (
            f"{said} · a click on a lane goes to its extreme · e finds worst moments{reading}",
            f"{said} · e finds worst moments{reading}",
            f"Run: time →, history ↓{reading}",
        )

    def row_at(self, event: events.MouseEvent) -> int | None:
        """On a lane its extreme within the column, on the heat the brightest row there."""
        frame, summary = self.frame, self._summary
        if frame is None or not frame.run.num_rows:
            return None
        x = int(event.screen_x - self.content_region.x)
        y = int(event.screen_y - self.content_region.y)
        height = self.size.height
        left, _ = time_axis(self.size.width)
        row = row_of(x, self.size.width, frame.playback.last)
        column = x - left
        pressed = isinstance(event, events.MouseDown)
        if summary is None or not pressed or not 0 <= column < len(summary.first):
            return row
        first, stop = int(summary.first[column]), int(summary.stop[column])
        lines = heat_lines(height)
        if y < lines:
            return first + int(frame.run.heat[first:stop].max(axis=1).argmax())
        lane = lanes_at(height)[min(y - lines, len(lanes_at(height)) - 1)]
        values = frame.run.lane(lane.id)[first:stop]
        known = np.isfinite(values)
        if not known.any():
            return first
        ranked = np.where(known, -values if lane.lowest else values, -np.inf)
        return first + int(ranked.argmax())
