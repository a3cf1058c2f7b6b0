"""A run as one picture: heat over time, budget, swap rate and NLL below it, markers on top."""

from __future__ import annotations

import base64
import html
import re
import struct
import zlib

import numpy as np

from megacontext.traces.metrics import metrics_of, series_of
from megacontext.traces.reader import TraceReader

__all__ = ["html_timeline", "png", "svg_timeline"]

_WIDTH, _HEAT, _STRIP, _LEFT = 1_000, 256, 60, 90
_SCALE = np.array([[13, 17, 23], [23, 60, 72], [31, 138, 138], [255, 183, 77]], float)
_LABEL_CHARACTERS, _CHARACTER = 24, 6.7  # a label, and the width of a character


def _ramp(values: np.ndarray) -> np.ndarray:
    """U8[..., 3] of U8 heat: dark, teal, amber."""
    position = values.astype(float) / 255 * (len(_SCALE) - 1)
    low = np.minimum(position.astype(int), len(_SCALE) - 2)
    fraction = (position - low)[..., None]
    colors: np.ndarray = (_SCALE[low] * (1 - fraction) + _SCALE[low + 1] * fraction).astype(
        np.uint8
    )
    return colors


def png(pixels: np.ndarray) -> bytes:
    """An RGB image U8[h, w, 3] as PNG (ISO/IEC 15948)."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + chunk(b"IEND", b"")
    )


def _binned(values: np.ndarray, columns: int, reduce: np.ufunc) -> np.ndarray:
    """``values`` [n, …] reduced to ``columns`` equal stretches of rows."""
    bounds = np.arange(columns) * len(values) // columns
    reduced: np.ndarray = reduce.reduceat(values, bounds, axis=0)
    return reduced


def _line(values: np.ndarray, top: float, title: str, color: str) -> str:
    """A strip with one curve; gaps where nothing was measured."""
    columns = min(len(values), _WIDTH)
    known = np.isfinite(values)
    sums = _binned(np.where(known, values, 0), columns, np.add)
    counts = _binned(known.astype(float), columns, np.add)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / counts
    high = float(np.nanmax(means)) if counts.any() else 0.0
    xs = _LEFT + (np.arange(columns) + 0.5) * _WIDTH / columns
    ys = top + _STRIP - 4 - (_STRIP - 8) * means / (high or 1.0)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True) if np.isfinite(y))
    return (
        f'<text x="{_LEFT - 8}" y="{top + 14}" text-anchor="end">{title}</text>'
        f'<text x="{_LEFT - 8}" y="{top + 30}" text-anchor="end" class="dim">≤ {high:.3g}</text>'
        f'<polyline points="{points}" fill="none" stroke="{color}"/>'
    )


def _markers(reader: TraceReader, height: float) -> str:
    rows = max(reader.num_rows, 1)
    parts = []
    free = 0.0  # where the last label ends; a marker without room has its tooltip
    for row, text in sorted(reader.overview().markers.items()):
        x = _LEFT + (row + 0.5) * _WIDTH / rows
        plain = "".join(c if c.isprintable() else "?" for c in text)
        named = re.sub(r"\s*@\d+-\d+", "", plain)  # the tooltip has the tokens, too
        cut = len(named) > _LABEL_CHARACTERS
        tooltip = html.escape(plain)
        label = named[: _LABEL_CHARACTERS - 1] + "…" if cut else named
        parts.append(
            f'<g><line x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{height}" class="mark"/>'
            f"<title>row {row}: {tooltip}</title>"
        )
        if x >= free:
            parts.append(f'<text x="{x + 2:.1f}" y="14" class="dim">{html.escape(label)}</text>')
            free = x + _CHARACTER * (len(label) + 1)
        parts.append("</g>")
    return "".join(parts)


def svg_timeline(reader: TraceReader) -> str:
    """The whole run as an SVG document; nothing in it is loaded from elsewhere."""
    overview = reader.overview()
    height = 24 + _HEAT + 4 * _STRIP
    body = '<text x="20" y="40">an empty trace</text>'

    # An empty trace has no heat to draw and no values to scale.
    if overview.num_rows:
        series = series_of(reader)
        heat = _binned(overview.heat, min(overview.num_rows, _WIDTH), np.maximum)
        image = base64.b64encode(png(_ramp(heat.T))).decode()
        strips = (
            (overview.budget_used / np.maximum(overview.w_max, 1), "budget", "#4dd0e1"),
            (series.swap_rate, "swap rate", "#b39ddb"),
            (series.residency, "residency", "#81c784"),
            (series.nll, "NLL", "#ffb74d"),
        )
        body = (
            f'<text x="{_LEFT - 8}" y="34" text-anchor="end">token 0</text>'
            f'<text x="{_LEFT - 8}" y="{20 + _HEAT}" text-anchor="end">now</text>'
            f'<image x="{_LEFT}" y="24" width="{_WIDTH}" height="{_HEAT}"'
            f' preserveAspectRatio="none" href="data:image/png;base64,{image}"/>'
        )
        for number, (values, title, color) in enumerate(strips):
            body += _line(np.asarray(values, float), 24 + _HEAT + number * _STRIP, title, color)
        body += _markers(reader, height)

    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 10} {height}"'
        ' font-family="monospace" font-size="11">'
        "<style>text{fill:#c9d1d9}.dim{fill:#8b949e}.mark{stroke:#ff8a65;stroke-opacity:.6}</style>"
        f'<rect width="100%" height="100%" fill="#0d1117"/>{body}</svg>'
    )


def html_timeline(reader: TraceReader) -> str:
    """The timeline with the run's figures and its config, as one self-contained page."""
    metrics = metrics_of(reader)
    rows = "".join(
        f"<tr><td>{name}</td><td>{value:.6g}</td></tr>"
        for name, value in metrics.items()
        if isinstance(value, (int, float))
    )
    title = html.escape(reader.path.name)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{background:#0d1117;color:#c9d1d9;font-family:monospace;margin:2em}"
        "td{padding:0 1em}svg{width:100%}</style>"
        f"<h1>{title}</h1>{svg_timeline(reader)}<h2>Figures</h2><table>{rows}</table>"
        f"<h2>Config</h2><pre>{html.escape(reader.meta.config)}</pre></html>"
    )
