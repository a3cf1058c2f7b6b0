"""A run as one PNG: token x time heat, and under it the lanes of the overview."""

from __future__ import annotations

import numpy as np

from megacontext.traces.timeline import png
from megacontext.tui.palette import RAMP, Role
from megacontext.tui.render.overview import LANES, Curve, summarise
from megacontext.tui.state.frame import Run
from megacontext.tui.themes import PALETTES

__all__ = ["run_picture"]

WIDTH, HEAT, LANE, GAP = 1200, 480, 64, 8


def run_picture(run: Run) -> bytes:
    """The picture of ``run`` in the dark palette's colours, 1,200 pixels wide."""
    colours = [c if c.startswith("#") else "#808080" for c in PALETTES["mc-dark"].colours]
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], np.uint8)
    summary = summarise(run, WIDTH, HEAT)
    height = HEAT + len(LANES) * (LANE + GAP)
    pixels = np.tile(rgb[Role.BASE], (height, WIDTH, 1))

    # Heat, on the score ramp.
    share = np.clip((np.nan_to_num(summary.heat) + 1) / 2, 0, 1)
    steps = np.minimum((share * RAMP).astype(int), RAMP - 1)
    known = np.isfinite(summary.heat)[..., None]
    pixels[:HEAT] = np.where(known, rgb[int(Role.SCORE) + steps], rgb[Role.BASE])

    # Each lane as columns from its floor up; its extreme stands out.
    for number, lane in enumerate(LANES):
        values = summary.column_extremes(Curve(lane, run.lane(lane.id))).values
        top = HEAT + GAP + number * (LANE + GAP)
        finite = values[np.isfinite(values)]
        if not len(finite):
            continue
        low, high = (finite.min(), 1.0) if lane.lowest else (0.0, finite.max())
        bars = np.nan_to_num((values - low) / max(high - low, 1e-12)) * LANE
        filled = (np.arange(LANE)[::-1, None] < bars[None, :])[..., None]
        telling = values == (low if lane.lowest else high)
        hue = np.where(telling[:, None], rgb[Role.MARKER], rgb[Role.CONTEXT])
        pixels[top : top + LANE] = np.where(filled, hue[None], pixels[top : top + LANE])
    return png(pixels)
