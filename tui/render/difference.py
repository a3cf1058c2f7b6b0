"""Where two runs see the same history differently: pure functions over two frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from megacontext.tui.palette import Role
from megacontext.tui.render.canvas import BOLD, Canvas
from megacontext.tui.render.history import LABEL
from megacontext.tui.render.marks import micros
from megacontext.tui.sources.row_model import F64, I64, RowModel
from megacontext.tui.state.frame import Frame

__all__ = ["Difference", "RunDifferences", "compare", "draw_difference", "finest"]

FINER_A, FINER_B, EQUAL, OUTSIDE = ord("▀"), ord("▄"), ord("·"), ord(" ")
ROLE_A, ROLE_B = int(Role.TITLE), int(Role.OK)
"""Neither a level's hue nor the heat's: the strip is about the two runs."""


@dataclass(frozen=True)
class RunDifferences:
    """How the two runs differ as a whole.

    Attributes:
        text_at: first token whose text differs, None where the common texts are equal.
        configs: (key, value of A, value of B) of the keys on which the configs differ.
        ended: letter and tokens of a run that had ended before the present moment.
    """

    text_at: int | None = None
    configs: tuple[tuple[str, str, str], ...] = ()
    ended: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """What differs at one moment.

    Attributes:
        agreement: share of the common history that both see at the same level of detail.
        finer_a, finer_b: share that the one sees finer than the other.
        tokens: the common history, tokens.
    """

    agreement: float
    finer_a: float
    finer_b: float
    tokens: int


def _pieces(row: RowModel, edges: I64) -> I64:
    """Level of the node over each piece [edges[i], edges[i + 1]); the tail counts as raw."""
    entry = np.searchsorted(row.after.bounds, edges[:-1], "right") - 1
    levels = np.append(row.after.levels.astype(np.int64), 0)
    return levels[np.clip(entry, 0, len(levels) - 1)]


def compare(a: RowModel, b: RowModel) -> Difference:
    """Compare the two frontiers exactly, node by node, over the history that both have."""
    common = min(a.history, b.history)
    if common <= 0:
        return Difference(1.0, 0.0, 0.0, 0)
    edges = np.unique(np.concatenate([a.after.bounds, b.after.bounds, [0, common]]))
    edges = edges[edges <= common]
    width = np.diff(edges)
    left, right = _pieces(a, edges), _pieces(b, edges)
    total = float(width.sum())
    return Difference(
        float(width[left == right].sum()) / total,
        float(width[left < right].sum()) / total,
        float(width[left > right].sum()) / total,
        common,
    )


def finest(row: RowModel, start: float, stop: float, width: int) -> F64:
    """Finest level of detail per column, NaN outside the frontier."""
    share = row.after.columns(start, stop, width, None).share > 1e-9
    return np.where(share.any(axis=0), share.argmax(axis=0), np.nan)


def draw_difference(
    pair: tuple[Frame, Frame], width: int, height: int, differences: RunDifferences | None = None
) -> Canvas:
    """A strip of who sees what finer, and the two runs' numbers beside each other."""
    canvas = Canvas(width, height)
    first, second = pair
    if first.row is None or second.row is None or width <= LABEL:
        canvas.text(0, 0, "One of the traces has no rows.", Role.DIM)
        return canvas
    inner, window = width - LABEL, first.view.window
    a = finest(first.row, window.start, window.stop, inner)
    b = finest(second.row, window.start, window.stop, inner)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    glyphs = np.where(a < b, FINER_A, np.where(a > b, FINER_B, EQUAL))
    roles = np.where(a < b, ROLE_A, np.where(a > b, ROLE_B, int(Role.FAINT)))
    canvas.text(0, 0, "A≠B", Role.DIM)
    canvas.cells(LABEL, 0, np.where(known, glyphs, OUTSIDE), roles, n=inner)
    _draw_differences(canvas, differences or RunDifferences())
    _numbers(canvas, first, second)
    return canvas


WIDE = 120
"""Cells from which on there is space to say what a difference means."""


def _draw_differences(canvas: Canvas, differences: RunDifferences) -> None:
    """What makes the strip above misleading, then which settings differ, on one line."""
    x = 0
    if differences.text_at is not None:
        means = ": equal places are not equal text" if canvas.width >= WIDE else ""
        text = f"Texts differ from token {differences.text_at:,} on{means}. "
        x = canvas.text(x, 1, text, Role.ERROR, BOLD)
    for letter, tokens in differences.ended.items():
        x = canvas.text(x, 1, f"{letter} ended at token {tokens:,}. ", Role.WARN, BOLD)
    if not differences.configs and x == 0:
        canvas.text(x, 1, "Same text, same config.", Role.DIM)
    for number, (key, a, b) in enumerate(differences.configs):
        text = f"{key} A {a:.16} B {b:.16}"
        left = len(differences.configs) - number
        rest = f"+{left} config key{'s' if left > 1 else ''}"
        if x + len(text) + (len(rest) + 3 if left > 1 else 0) > canvas.width:
            canvas.text(x, 1, rest, Role.DIM)
            break
        x = canvas.text(x, 1, f"{text}{' · ' if left > 1 else ''}", Role.TEXT)


def _numbers(canvas: Canvas, first: Frame, second: Frame) -> None:
    assert first.row is not None
    assert second.row is not None
    comparison = compare(first.row, second.row)
    x = canvas.text(0, 2, "▀ A finer ", ROLE_A)
    x = canvas.text(x, 2, f"{comparison.finer_a:.0%}   ", Role.TEXT, BOLD)
    x = canvas.text(x, 2, "▄ B finer ", ROLE_B)
    x = canvas.text(x, 2, f"{comparison.finer_b:.0%}   ", Role.TEXT, BOLD)
    canvas.text(x, 2, f"same {comparison.agreement:.0%} of {comparison.tokens:,} tokens", Role.DIM)

    # Figures of both side by side; where they differ they stand out.
    table = [
        ("budget", _used(first.row), _used(second.row)),
        ("NLL", _mean(first.series.nll), _mean(second.series.nll)),
        ("swap rate", _mean(first.series.swap, 1), _mean(second.series.swap, 1)),
        ("residency", _mean(first.series.residency, 1), _mean(second.series.residency, 1)),
        ("stages", micros(sum(first.row.stage_us)), micros(sum(second.row.stage_us))),
        ("lens", *_lenses(first, second)),
    ]
    columns = max(canvas.width // 34, 1)
    for entry, (name, left, right) in enumerate(table):
        y, at = 3 + entry // columns, (entry % columns) * 34
        role = Role.TEXT if left == right else Role.MARKER
        at = canvas.text(at, y, f"{name:<10}", Role.DIM)
        canvas.text(at, y, f"A {left:<9} B {right:<9}", role)


def _lenses(first: Frame, second: Frame) -> tuple[str, str]:
    return first.info.lens or "?", second.info.lens or "?"


def _used(row: RowModel) -> str:
    return f"{row.budget_used}/{row.w_max}"


def _mean(values: F64, percent: int = 0) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "–"
    mean = float(known.mean())
    return f"{mean:.1%}" if percent else f"{mean:.2f}"
