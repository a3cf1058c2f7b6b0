"""A page to look at, next to the files to compute with: tables with bars, and curves, as HTML.

The page needs no script, no font and no file besides itself. Shapes do not matter here: rows are
plain mappings, curves are lists of points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeGuard

__all__ = ["Curve", "group_means", "write_curves", "write_table"]

Row = Mapping[str, Any]
_MAX_KEY_VALUES = 24
"""A text column with more values than this names single rows, and is no key to group by."""
_MAX_GROUPS = 200
_WIDTH, _HEIGHT, _MARGIN = 420, 180, 44  # of a chart, in pixels
_STYLE = """
body { font: 14px system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; color: #222 }
table { border-collapse: collapse } th, td { padding: .2rem .6rem; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
tr:nth-child(even) { background-color: #f6f6f6 } svg { margin: .5rem 1rem .5rem 0 }
@media (prefers-color-scheme: dark) {
  body { background: #111; color: #ddd } tr:nth-child(even) { background-color: #1c1c1c } }
"""


@dataclass(frozen=True)
class Curve:
    """``points``: (x, y), in order of x; a value that is not finite leaves a gap."""

    name: str
    points: Sequence[tuple[float, float]]


def group_means(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row for each combination of the text columns, with ``rows`` and the means of the numbers.

    Columns with one value everywhere, and text columns with very many, are left out. Booleans count
    as 0 and 1; values that are missing or not finite are not counted.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    keys, numbers = [], []
    for column in columns:
        values = [row.get(column) for row in rows]
        texts = {value for value in values if isinstance(value, str)}
        if texts and 1 < len(texts) <= _MAX_KEY_VALUES:
            keys.append(column)
        elif any(_is_number(value) for value in values):
            numbers.append(column)

    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row.get(key, "")) for key in keys), []).append(row)

    means = []
    for labels, members in groups.items():
        mean: dict[str, Any] = {**dict(zip(keys, labels, strict=True)), "rows": len(members)}
        for column in numbers:
            present = [value for m in members if _is_number(value := m.get(column))]
            mean[column] = sum(map(float, present)) / len(present) if present else None
        means.append(mean)
    return means


def write_table(path: Path, title: str, rows: Sequence[Row]) -> None:
    """Write the means of ``rows`` by their text columns as a page; bars compare within a column."""
    means = group_means(rows)
    shown = means[:_MAX_GROUPS]
    note = f"{len(rows)} rows in {len(means)} groups" if rows else "no rows"
    if len(means) > len(shown):
        note += f"; the first {len(shown)} are shown"
    _write_page(path, title, f"<p>{escape(note)}</p>{_table(shown)}")


def write_curves(path: Path, title: str, curves: Sequence[Curve], final: Row) -> None:
    """Write a chart for each curve with two points or more, and the final values as a table."""
    charts = "".join(_chart(curve) for curve in curves)
    rows = [{"metric": name, "value": value} for name, value in final.items()]
    _write_page(path, title, f"<div>{charts}</div><h2>At the end</h2>{_table(rows, bars=False)}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _write_page(path: Path, title: str, body: str) -> None:
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>{body}</html>\n"
    )
    partial = path.with_suffix(".tmp")
    partial.write_text(text, encoding="utf8")
    partial.replace(path)


def _table(rows: Sequence[Row], bars: bool = True) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    largest = {
        column: max((abs(row[column]) for row in rows if _is_number(row.get(column))), default=0.0)
        for column in columns
    }
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = []
    for row in rows:
        cells = (_cell(row.get(column), largest[column] if bars else 0.0) for column in columns)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(value: object, largest: float) -> str:
    """A number with a bar behind it, as long as its share of the largest one in the column."""
    if isinstance(value, bool) or not _is_number(value):
        return f"<td>{'' if value is None else escape(str(value))}</td>"
    text = str(value) if isinstance(value, int) else f"{value:.4g}"
    style = ""
    if largest:
        percent = 100 * abs(value) / largest
        style = f' style="background:linear-gradient(90deg,#8ab4f855 {percent:.1f}%,transparent 0)"'
    return f'<td class="number"{style}>{text}</td>'


def _chart(curve: Curve) -> str:
    """One curve as SVG with the ends of both axes labelled; empty for fewer than two points."""
    points = [(x, y) for x, y in curve.points if math.isfinite(x) and math.isfinite(y)]
    if len(points) < 2:
        return ""
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = min(y for _, y in points), max(y for _, y in points)
    span_x, span_y = (high_x - low_x) or 1.0, (high_y - low_y) or 1.0

    def at(x: float, y: float) -> str:
        right = _MARGIN + (x - low_x) / span_x * (_WIDTH - _MARGIN - 8)
        down = 24 + (high_y - y) / span_y * (_HEIGHT - 48)
        return f"{right:.1f},{down:.1f}"

    line = " ".join(at(x, y) for x, y in points)
    label = 'font-size="11" fill="currentColor"'
    bottom = _HEIGHT - 6
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{escape(curve.name)}">'
        f'<text x="{_MARGIN}" y="14" font-weight="bold" {label}>{escape(curve.name)}</text>'
        f'<text x="0" y="28" {label}>{high_y:.4g}</text>'
        f'<text x="0" y="{_HEIGHT - 22}" {label}>{low_y:.4g}</text>'
        f'<text x="{_MARGIN}" y="{bottom}" {label}>{low_x:g}</text>'
        f'<text x="{_WIDTH - 8}" y="{bottom}" text-anchor="end" {label}>{high_x:g}</text>'
        f'<polyline points="{line}" fill="none" stroke="#4285f4" stroke-width="1.5"/></svg>'
    )
