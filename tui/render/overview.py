"""The whole run at a glance: token x time heat, and lanes of NLL, swap, residency, time, drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from megacontext.tui.palette import Role, score_role
from megacontext.tui.render.canvas import BOLD, Canvas
from megacontext.tui.render.marks import LEVELS, compact, micros, shade_glyphs
from megacontext.tui.sources.row_model import F64, I64
from megacontext.tui.state.frame import Frame, Run

__all__ = [
    "LANES",
    "Curve",
    "Summary",
    "draw_overview",
    "extremes",
    "row_of",
    "summarise",
    "time_axis",
]

LEFT, RIGHT = 6, 8
"""Cells beside the time axis: a lane's name, and its range."""
NARROW = 60
"""Below this width the axis takes all of it."""
UPPER = ord("▀")
BARS = np.array([ord(c) for c in LEVELS], np.int64)


class Lane(NamedTuple):
    """A curve over the run. ``lowest``: its low values are the telling ones."""

    id: str
    name: str
    lowest: bool = False


class Curve(NamedTuple):
    """A lane's values, one per row of the run; ``name`` where it is not the lane's own."""

    lane: Lane
    values: F64
    name: str = ""


LANES = (
    Lane("nll", "NLL"),
    Lane("swap", "swap"),
    Lane("residency", "resid", lowest=True),
    Lane("latency", "time"),
    Lane("drift", "drift"),
)


def time_axis(width: int) -> tuple[int, int]:
    """First cell and length of the axis on which the scrubber and the overview show time."""
    return (LEFT, width - LEFT - RIGHT) if width >= NARROW else (1, width - 2)


def row_of(x: int, width: int, last: int) -> int:
    """The row that cell ``x`` means, of rows 0 to ``last``."""
    left, inner = time_axis(width)
    share = min(max((x - left) / max(inner - 1, 1), 0.0), 1.0)
    return round(share * last)


@dataclass(frozen=True, eq=False)
class Summary:
    """A run squeezed onto ``columns`` cells of time and ``lines`` cells of the history.

    Attributes:
        first, stop: rows [first, stop) of each column.
        heat: best score, F64[lines, columns], NaN where the history had not come so far.
    """

    first: I64
    stop: I64
    heat: F64

    def column_extremes(self, curve: Curve) -> Curve:
        """``curve`` with the extreme of each column, NaN where none of its rows is known."""
        values = extremes(curve.values, self.first, self.stop, curve.lane.lowest)
        return curve._replace(values=values)


def summarise(run: Run, columns: int, lines: int) -> Summary:
    """Aggregate the heat of ``run``, in one pass over it."""
    first, stop = _columns(run.num_rows, columns)
    return Summary(first, stop, _heat(run, first, stop, lines))


def _columns(rows: int, columns: int) -> tuple[I64, I64]:
    """Rows of each column, the inverse of the scrubber's row → cell; at least one each."""
    cells = np.arange(columns + 1)
    edge = np.ceil(cells * max(rows - 1, 1) / max(columns - 1, 1) - 1e-9).astype(np.int64)
    first, stop = edge[:-1], np.minimum(edge[1:], rows)
    first = np.clip(np.where(stop > first, first, first - 1), 0, rows - 1)
    return first, np.maximum(stop, first + 1)


def _pairs(first: I64, stop: I64) -> I64:
    return np.stack([first, stop], axis=1).reshape(-1)


def extremes(values: F64, first: I64, stop: I64, lowest: bool) -> F64:
    """The highest (lowest) value of rows [first, stop) of each column, NaN where none is known."""
    sign = -1.0 if lowest else 1.0
    known = np.where(np.isfinite(values), values * sign, -np.inf)
    best = np.maximum.reduceat(np.append(known, -np.inf), _pairs(first, stop))[::2]
    return np.where(np.isfinite(best), best * sign, np.nan)


def _heat(run: Run, first: I64, stop: I64, lines: int) -> F64:
    # Each column's best score by bin; one reduction a column is what numpy does fastest.
    best = np.empty((len(first), run.heat.shape[1]), np.uint8)
    for out, low, high in zip(best, first.tolist(), stop.tolist(), strict=True):
        np.maximum.reduce(run.heat[low:high], axis=0, out=out)

    # From bins of each column's history to lines of the whole one.
    history = np.maximum(run.history[stop - 1], 1)
    bins = best.shape[1]
    edges = np.linspace(0, max(int(run.history[-1]), 1), lines + 1)
    bin_edges = edges[None, :] / history[:, None] * bins
    left = np.clip(np.floor(bin_edges[:, :-1]), 0, bins - 1).astype(np.int64)
    right = np.clip(np.ceil(bin_edges[:, 1:]), left + 1, bins).astype(np.int64)
    offsets = (bins + 1) * np.arange(len(first))[:, None]
    flat = np.pad(best, ((0, 0), (0, 1))).reshape(-1)
    cells = np.maximum.reduceat(
        flat, _pairs((left + offsets).reshape(-1), (right + offsets).reshape(-1))
    )
    score = cells[::2].reshape(len(first), lines) / 127.5 - 1.0
    return np.where(bin_edges[:, :-1] < bins - 1e-9, score, np.nan).T


def lanes_at(height: int) -> tuple[Lane, ...]:
    """The lanes that a pane of ``height`` lines has below its heat."""
    return LANES[: 1 if height <= 3 else 4 if height <= 8 else 5]


def heat_lines(height: int) -> int:
    """Lines of heat in a pane of ``height`` lines."""
    return max(height - len(lanes_at(height)), 1)


def draw_overview(
    frame: Frame,
    width: int,
    height: int,
    *,
    texture: bool,
    summary: Summary | None = None,
    curves: Sequence[Curve] | None = None,
) -> Canvas:
    """Time runs right, the history down; one cell per stretch of rows, its extreme shown.

    Args:
        summary: of the frame's run, where the caller has one for this size.
        curves: below the heat, values by column; by default the run's lanes that have room.
    """
    canvas = Canvas(width, height)
    left, inner = time_axis(width)
    if not frame.run.num_rows or inner < 8 or height < 2:
        return canvas
    lines = heat_lines(height)
    if summary is None:
        summary = summarise(frame.run, inner, lines * (1 if texture else 2))
    _draw_heat(canvas, frame, summary, lines, texture=texture)
    if curves is None:
        lanes = lanes_at(height)
        curves = [summary.column_extremes(Curve(lane, frame.run.lane(lane.id))) for lane in lanes]
    for y, curve in enumerate(curves, lines):
        _draw_lane(canvas, y, curve)

    # The present row stands through all lines, the window of the map beside the heat.
    here = left + math.floor(frame.playback.position / max(frame.playback.last, 1) * (inner - 1))
    for y in range(height):
        canvas.text(here, y, "│", Role.CURSOR, BOLD)
    window = frame.view.window
    if not window.whole:
        total = max(int(frame.run.history[-1]), 1)
        low, high = (int(t / total * lines) for t in (window.start, window.stop - 1e-6))
        for y in range(max(low, 0), min(high, lines - 1) + 1):
            canvas.text(left - 1, y, "▐", Role.SELECT)
    return canvas


def _draw_heat(
    canvas: Canvas, frame: Frame, summary: Summary, lines: int, *, texture: bool
) -> None:
    left, _ = time_axis(canvas.width)
    heat = summary.heat
    known = np.isfinite(heat)
    roles = np.where(known, score_role(heat), int(Role.BASE))
    for y in range(lines):
        if texture:
            glyphs = np.where(known[y], shade_glyphs(heat[y]), 32)
            canvas.cells(left, y, glyphs, roles[y], n=heat.shape[1])
        else:
            canvas.cells(left, y, UPPER, roles[2 * y], roles[2 * y + 1], n=heat.shape[1])
    if left > 1:
        canvas.text(0, 0, "run", Role.DIM)
        canvas.text(canvas.width - RIGHT + 1, 0, "↑ tok 0", Role.DIM)
        if lines > 1:
            end = f"↓ {compact(int(frame.run.history[-1]))}"
            canvas.text(canvas.width - RIGHT + 1, lines - 1, end, Role.DIM)


def _draw_lane(canvas: Canvas, y: int, curve: Curve) -> None:
    lane, values, name = curve
    left, _ = time_axis(canvas.width)

    # Bars from 0 (or the lowest share) up; the extreme stands out.
    known = values[np.isfinite(values)]
    if left > 1:
        canvas.text(0, y, name or lane.name, Role.DIM)
    if not len(known):
        canvas.cells(left, y, ord("·"), int(Role.FAINT), n=len(values))
        return
    low, high = (float(known.min()), 1.0) if lane.lowest else (0.0, float(known.max()))
    share = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
    bars = BARS[np.clip((share * 7.999).astype(np.int64), 0, 7)]
    telling = values <= low if lane.lowest else (values >= high) & (high > 0)
    here = np.isfinite(values)
    roles = np.where(telling, int(Role.MARKER), int(Role.CONTEXT))
    canvas.cells(
        left,
        y,
        np.where(here, bars, ord("·")),
        np.where(here, roles, int(Role.FAINT)),
        n=len(values),
    )
    if left > 1:
        canvas.text(canvas.width - RIGHT + 1, y, _range(lane, low, high), Role.TEXT)


def _range(lane: Lane, low: float, high: float) -> str:
    if lane.id == "residency":
        return f"≥{low:.0%}"
    if lane.id == "swap":
        return f"≤{high:.0%}"
    if lane.id == "latency":
        return f"≤{micros(high)}"
    return f"≤{high:.2f}" if lane.id == "nll" else f"≤{high:.0e}"
