"""The overview: the whole run, and a click goes to its telling rows."""

from __future__ import annotations

import numpy as np
from textual import events

from megacontext.tui.render.canvas import Canvas
from megacontext.tui.render.overview import (
    Curve,
    Summary,
    draw_overview,
    heat_lines,
    lanes_at,
    row_of,
    summarise,
    time_axis,
)
from megacontext.tui.state.frame import Frame, Run
from megacontext.tui.widgets.scrubber import TimePane

__all__ = ["OverviewPane", "TwoRunsPane"]

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
        self._curves: list[Curve] = []
        self._summary_key: tuple[int, ...] = ()
        self._curve_rows: tuple[int, ...] = ()

    def curves(self, frame: Frame, height: int) -> list[Curve]:
        """The lanes in a pane of ``height`` lines, with the values of all rows."""
        return [Curve(lane, frame.run.curve(lane.id)) for lane in lanes_at(height)]

    def known(self, frame: Frame) -> tuple[int, ...]:
        """Rows that the lanes are drawn from: more of them are another picture."""
        return frame.run.num_rows, frame.run.vitals.num_rows

    def cells(self, frame: Frame, width: int, height: int) -> Canvas:
        lines = heat_lines(height) * (1 if self.texture else 2)
        _, inner = time_axis(width)
        run = frame.run

        # The heat once for each size and growth, the lanes also while they are being read.
        if run.num_rows and inner >= 8:
            rows = tuple(n - n % max(n // FINE, 1) for n in self.known(frame))
            size = (width, height, lines, run.generation, rows[0])
            if size != self._summary_key or self._summary is None:
                self._summary = summarise(run, inner, lines)
                self._summary_key, self._curve_rows = size, ()
            if rows != self._curve_rows:
                curves = self.curves(frame, height)
                self._curves = [self._summary.column_extremes(curve) for curve in curves]
                self._curve_rows = rows
        return draw_overview(
            frame,
            width,
            height,
            texture=self.texture,
            summary=self._summary,
            curves=self._curves if self._summary is not None else None,
        )

    def headings(self, frame: Frame) -> tuple[str, ...]:
        if not frame.run.num_rows:
            return ("Run",)
        read = frame.run.vitals.num_rows / frame.run.num_rows
        reading = "" if read >= 1 else f" · reading {read:.0%}"
        title = "Run: time →, history ↓, brightest score of each stretch"
        return (
            f"{title} · a click on a lane goes to its extreme · e finds worst moments{reading}",
            f"{title} · e finds worst moments{reading}",
            f"Run: time →, history ↓{reading}",
        )

    def row_at(self, event: events.MouseEvent) -> int | None:
        """On a lane its extreme within the column, on the heat the brightest row there."""
        frame, summary = self.frame, self._summary
        if frame is None or not frame.run.num_rows:
            return None

        # Which row the pointer's column begins with.
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

        # On a lane: the extreme of its rows in that column.
        curves = self.curves(frame, height)
        lane, values, _ = curves[min(y - lines, len(curves) - 1)]
        values = values[first:stop]
        known = np.isfinite(values)
        if not known.any():
            return first
        ranked = np.where(known, -values if lane.lowest else values, -np.inf)
        return first + int(ranked.argmax())


class TwoRunsPane(OverviewPane):
    """The leader's run, with lanes of both: the other's values at the leader's moments."""

    def __init__(self) -> None:
        super().__init__()
        self.other: Frame | None = None
        self.letters = ("A", "B")

    def headings(self, frame: Frame) -> tuple[str, ...]:
        a, b = self.letters
        return (f"Run {a} leads: time →, history ↓ · lanes of {a} and, at the same token, of {b}",)

    def known(self, frame: Frame) -> tuple[int, ...]:
        other = self.other.run if self.other is not None else Run()
        return (
            *super().known(frame),
            other.num_rows,
            other.vitals.num_rows,
            ord(self.letters[0]),
        )

    def curves(self, frame: Frame, height: int) -> list[Curve]:
        other = self.other.run if self.other is not None else Run()
        if not other.num_rows:
            return super().curves(frame, height)
        rows = np.searchsorted(other.history, frame.run.history, "right") - 1
        curves = []
        for lane in lanes_at(height)[: max(len(lanes_at(height)) // 2, 1)]:
            other_values = np.where(rows >= 0, other.curve(lane.id)[np.maximum(rows, 0)], np.nan)
            for letter, values in zip(
                self.letters, (frame.run.curve(lane.id), other_values), strict=True
            ):
                curves.append(Curve(lane, values, f"{lane.name:<4.4}{letter}"))
        return curves[: len(lanes_at(height))]
