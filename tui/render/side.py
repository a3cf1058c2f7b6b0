"""The right-hand panes: budget, sparklines, action log."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from megacontext.tui.palette import Role, level_role
from megacontext.tui.render.canvas import BOLD, UNDERLINE, Canvas
from megacontext.tui.render.marks import (
    KIND_ROLE,
    KIND_SIGN,
    REASON_WORDS,
    compact,
    micros,
    signed,
    spark,
)
from megacontext.tui.sources.row_model import F64, STAGES, RowModel
from megacontext.tui.state.action_lines import LogLine
from megacontext.tui.state.frame import Frame, carried

__all__ = ["CHIPS", "chip_at", "chips_shown", "draw_actions", "draw_budget"]


def draw_budget(frame: Frame, width: int, height: int) -> Canvas:
    """How full the working context is, of what, and how the run's vital signs move."""
    canvas = Canvas(width, height)
    row = frame.row
    if row is None or width < 8:
        return canvas
    _mix_bar(canvas, row)

    # Entries by level.
    raw, gists, coarse, tail = row.mix
    canvas.spans(
        0,
        1,
        [
            ("raw ", int(Role.DIM)),
            (compact(raw), level_role(0)),
            (" L1 ", int(Role.DIM)),
            (compact(gists), level_role(1)),
            (" ≥L2 ", int(Role.DIM)),
            (compact(coarse), level_role(2)),
            (" tail ", int(Role.DIM)),
            (compact(tail), int(Role.TAIL)),
        ],
    )

    # The vital signs, in two columns where the pane is wide and low.
    lines = _spark_lines(frame, row)
    columns = 2 if width >= 44 and height - 2 < len(lines) else 1
    cell = width // columns
    label = 10 if cell >= 36 else 6
    edge = int(width >= 36)  # as far from the edge as everything else
    for index, line in enumerate(lines):
        y, x = 2 + index // columns, (index % columns) * cell
        if y >= height:
            break
        canvas.text(x, y, line.name if label > 6 else line.short, Role.DIM)
        canvas.text(
            x + label,
            y,
            spark(line.values, max(cell - label - 7 - edge, 4), line.high),
            Role.CONTEXT,
        )
        canvas.text(x + cell - len(line.now) - max(columns > 1, edge), y, line.now, Role.TEXT)
    _stages(canvas, 2 - (-len(lines) // columns), row)
    return canvas


def _stages(canvas: Canvas, y: int, row: RowModel) -> None:
    """Where this step's time went, as far as there is room; the longest stage stands out."""
    longest = max(row.stage_us)
    x = 0
    for name, us in zip(STAGES, row.stage_us, strict=True):
        label = f"{name} {micros(us)}  "
        if x + len(label) - 2 > canvas.width:
            x, y = 0, y + 1
        x = canvas.text(x, y, f"{name} ", Role.DIM)
        x = canvas.text(x, y, f"{micros(us)}  ", Role.TEXT if us < longest else Role.MARKER)


def _mix_bar(canvas: Canvas, row: RowModel) -> None:
    """One bar of w_max entries, in the LOD hues; what is free stays empty."""
    label = f" {row.budget_used:,}/{row.w_max:,}"
    width = max(canvas.width - len(label), 4)
    edges = np.cumsum([0, *row.mix]) / max(row.w_max, 1) * width
    roles = (level_role(0), level_role(1), level_role(2), int(Role.TAIL))
    canvas.cells(0, 0, ord("░"), int(Role.FAINT), n=width)
    for role, left, right in zip(roles, edges[:-1], edges[1:], strict=True):
        canvas.cells(round(left), 0, ord("█"), role, n=round(right) - round(left))
    over = row.budget_used > row.w_max
    canvas.text(width, 0, label, Role.ERROR if over else Role.TEXT, BOLD)


class _Line(NamedTuple):
    """A sparkline: its name, a shorter one, its values, and the present one in words."""

    name: str
    short: str
    values: F64
    now: str
    high: float | None = None


def _spark_lines(frame: Frame, row: RowModel) -> list[_Line]:
    series = frame.series
    drift = series.drift[np.isfinite(series.drift)]
    nll = carried(series.nll, frame.run.steps[frame.trail.numbers])
    return [
        _Line("NLL", "NLL", nll, _last(series.nll, "{:.2f}")),
        _Line("swap rate", "swap", series.swap, _last(series.swap * 100, "{:.0f}%")),
        _Line(
            "residency", "resid", series.residency, _last(series.residency * 100, "{:.0f}%"), 1.0
        ),
        _Line("step time", "time", series.latency_us, micros(sum(row.stage_us))),
        _Line("KV drift", "drift", drift, _last(drift, "{:.0e}")),
    ]


def _last(values: F64, form: str) -> str:
    known = values[np.isfinite(values)]
    return form.format(float(known[-1])) if len(known) else "–"


CHIPS: tuple[tuple[str, str], ...] = (
    ("all", ""),
    ("+", "+"),
    ("−", "−"),
    ("✗", "✗"),
    ("swap", "swap"),
    ("forced", "forced"),
    ("/ text", "/"),
)
"""What a click on the first line of the list filters by; "/" asks."""
MIN_WORDS_WIDTH = 24
"""Cells that long names of a swap's other half leave for the block's words."""
CHIPS_FROM = 8
"""Lines of a pane from which on the chips are always there."""


def chips_shown(frame: Frame, height: int, *, focused: bool) -> bool:
    """Whether the list's first line offers filters."""
    return height >= 4 and (focused or bool(frame.log.filter) or height >= CHIPS_FROM)


def chip_at(x: int) -> str | None:
    """The filter that cell ``x`` of the chips' line stands for."""
    left = 0
    for name, text in CHIPS:
        if left <= x < left + len(name):
            return text
        left += len(name) + 2
    return None


def draw_actions(frame: Frame, width: int, height: int, *, focused: bool = False) -> Canvas:
    """What was expanded and collapsed, why, and which candidates were turned down."""
    canvas = Canvas(width, height)
    log, top = frame.log, 0
    if chips_shown(frame, height, focused=focused):
        top = 1
        x = 0
        for name, text in CHIPS:
            chosen = text == log.filter
            x = canvas.text(x, 0, name, Role.MARKER if chosen else Role.DIM, BOLD if chosen else 0)
            x += 2
    if not log.lines and frame.row is not None:
        text = f"Nothing matches {log.filter!r}; esc shows all." if log.filter else ""
        canvas.text(0, top, text or "No action so far.", Role.DIM)
    for y, line in enumerate(log.lines[: max(height - top, 0)], top):
        selected = line.id == log.cursor or (log.cursor is None and line.node == frame.view.node)
        if line.id == log.cursor:
            canvas.cells(0, y, 32, bg=int(Role.GROUND), n=width)
        _log_line(canvas, y, line, selected=selected)
    return canvas


def _log_line(canvas: Canvas, y: int, line: LogLine, *, selected: bool) -> None:
    flags = (UNDERLINE if selected else 0) | (BOLD if line.current else 0)
    x = canvas.text(0, y, f"{line.step} ", Role.TEXT if line.current else Role.CONTEXT)

    # An action with its other half in as many words as fit, or a refusal with its reason.
    role = int(Role.FORCED) if line.forced else KIND_ROLE[line.kind]
    words = REASON_WORDS.get(line.reason, f"reason {line.reason}")
    if line.applied:
        x = canvas.text(x, y, f"{KIND_SIGN[line.kind]} ", role, BOLD)
        x = canvas.text(x, y, str(line.node), role, flags)
        x = canvas.text(x, y, f" {signed(line.score)} ", Role.TEXT)
        partner = ", ".join(map(str, line.partners))
        named = f"{words} {'paid by' if line.kind == 0 else 'for'} {partner}" if partner else words
        short = f"{words} {'←' if line.kind == 0 else '→'} {partner}" if partner else words
        text = f"forced: {words}" if line.forced else named
        for choice in (
            f"{text:{len(text) + MIN_WORDS_WIDTH}}",
            short,
            words,
        ):  # room for a few words, too
            if x + len(choice) <= canvas.width:
                text = choice.rstrip()
                break
        x = canvas.text(x, y, text, Role.FORCED if line.forced else Role.DIM)
    else:
        x = canvas.text(x, y, f"✗{KIND_SIGN[line.kind]} ", Role.DIM)
        x = canvas.text(x, y, str(line.node), Role.DIM, flags & UNDERLINE)
        x = canvas.text(x, y, f" {signed(line.score)} ", Role.DIM)
        x = canvas.text(x, y, words, Role.WARN)

    # The block's first words in what is left of the line.
    if line.words and x + 6 < canvas.width:
        free = canvas.width - x - 1
        shown = line.words if len(line.words) <= free else line.words[: free - 1] + "…"
        canvas.text(x + 1, y, shown, Role.CONTEXT)
