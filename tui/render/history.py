"""The panes that share the history as their x axis: map, heat strip, waterfall."""

from __future__ import annotations

from textwrap import wrap

import numpy as np

from megacontext.tui.palette import LEVEL_SHADES, RAMP, Role, level_role, score_role
from megacontext.tui.render.bars import story
from megacontext.tui.render.canvas import BOLD, Canvas
from megacontext.tui.render.marks import (
    KIND_ROLE,
    KIND_SIGN,
    SHADE_FROM,
    SHADES,
    compact,
    shade_glyphs,
    signed,
)
from megacontext.tui.sources.row_model import F64, Columns, RowModel
from megacontext.tui.state.frame import Frame

__all__ = [
    "LABEL",
    "draw_heat",
    "draw_map",
    "draw_waterfall",
    "row_under",
    "scale_legend",
    "scale_words",
    "token_at",
]

LABEL = 6
"""Cells left of the shared x axis, for the tracks' names."""
MINIMAP_FROM = 5
"""Lines of a map from which on it shows, when zoomed, where in the history it is."""
GLYPH = (ord("▀"), ord("▄"), ord("█"), ord("█"))
SIGNS = np.array([ord(KIND_SIGN[0]), ord(KIND_SIGN[1])], np.int64)
SIGN_ROLES = np.array([KIND_ROLE[0], KIND_ROLE[1]], np.int64)
BRIGHT = 10
"""Step of the score ramp from which on a coloured sign would not be seen."""
UPPER, FULL = ord("▀"), ord("█")


def token_at(frame: Frame, x: int, width: int) -> int | None:
    """The token under cell ``x`` of a pane that is ``width`` cells wide, or None beside it."""
    inner = width - LABEL
    if not LABEL <= x < width or inner <= 0:
        return None
    window = frame.view.window
    return int(window.start + (x - LABEL + 0.5) / inner * window.span)


def column_of(frame: Frame, token: float, inner: int) -> int:
    """The cell (without the label) that shows ``token``; may lie outside [0, inner)."""
    window = frame.view.window
    return int(np.floor((token - window.start) / max(window.span, 1e-9) * inner))


def draw_map(frame: Frame, width: int, height: int) -> Canvas:
    """Tracks of the tree's levels: what the model sees after this row's actions."""
    canvas = Canvas(width, height)
    row, inner = frame.row, width - LABEL
    if row is None or inner < 1:
        return canvas
    window = frame.view.window
    columns = row.after.columns(window.start, window.stop, inner, None)
    zoomed = not window.whole and height >= MINIMAP_FROM
    plan = _map_lines(height - zoomed, int(row.after.levels.max(initial=0)))
    if zoomed:
        _minimap(canvas, height - 1, frame, row)

    # Line by line, then the tail over the raw track.
    for y, line in enumerate(plan):
        if isinstance(line, tuple):
            _track(canvas, y, line, columns, named=line not in plan[:y])
        elif line == "marks":
            _hit_marks(canvas, y, frame)
            _action_marks(canvas, y, frame, row)
        else:
            _axis(canvas, y, frame)
    if "raw" in {p[0] for p in plan if isinstance(p, tuple)}:
        _tail(canvas, frame, row, next(i for i, p in enumerate(plan) if p == ("raw", 0, 0)))
    return canvas


def _map_lines(height: int, top: int) -> list[str | tuple[str, int, int]]:
    """What each line of the map shows: (name, lowest level, highest level) or a name."""
    tracks = [("L2" if top <= 2 else "≥L2", 2, 3), ("L1", 1, 1), ("raw", 0, 0)]
    if height >= 7 and top >= 3:
        tracks = [("≥L3", 3, 3), ("L2", 2, 2), *tracks[1:]]
    if height < 3:
        tracks = tracks[-max(height, 0) :]
    lines: list[str | tuple[str, int, int]] = list(tracks)
    if len(lines) < height:
        lines.append("marks")
    if len(lines) < height:
        lines.append("axis")
    extra = height - len(lines)
    if extra >= len(tracks):  # tall pane: every track twice as thick
        lines = [line for line in lines for _ in range(2 if isinstance(line, tuple) else 1)]
    return lines


def _track(
    canvas: Canvas, y: int, line: tuple[str, int, int], columns: Columns, *, named: bool
) -> None:
    name, low, high = line
    share = columns.share[low : high + 1].sum(axis=0)
    shade = np.clip(np.ceil(share * LEVEL_SHADES).astype(np.int64), 1, LEVEL_SHADES) - 1
    shade = np.where(columns.wide & (columns.parity == 1), np.minimum(shade, 1), shade)
    seen = share > 1e-9
    if named:
        canvas.text(0, y, name, level_role(low))
    canvas.cells(
        LABEL,
        y,
        np.where(seen, GLYPH[low], ord("·")),
        np.where(seen, level_role(low, 0) + shade, int(Role.FAINT)),
        n=len(share),
    )


def _tail(canvas: Canvas, frame: Frame, row: RowModel, y: int) -> None:
    """The raw tokens after the frontier, at the raw track's right end."""
    inner = canvas.width - LABEL
    left = column_of(frame, float(row.after.bounds[-1]), inner)
    right = column_of(frame, float(row.history) - 1e-6, inner)
    if row.tail and right >= 0 and left < inner:
        left = min(max(left, 0), inner - 1)
        n = min(right, inner - 1) - left + 1
        canvas.cells(LABEL + left, y, UPPER, int(Role.TAIL), n=max(n, 1))


def _action_marks(canvas: Canvas, y: int, frame: Frame, row: RowModel) -> None:
    inner = canvas.width - LABEL
    canvas.text(0, y, " now", Role.DIM)
    for act in sorted(row.actions, key=lambda a: -a.kind):
        start, stop = act.node.span(row.block_size)
        x = column_of(frame, (start + stop) / 2, inner)
        if 0 <= x < inner:
            canvas.text(LABEL + x, y, KIND_SIGN[act.kind], KIND_ROLE[act.kind], BOLD)


def _axis(canvas: Canvas, y: int, frame: Frame) -> None:
    """Token numbers, and a bracket with its name under the selected node; none over another."""
    window, inner = frame.view.window, canvas.width - LABEL
    taken = _selection(canvas, y, frame)
    ticks = max(inner // 16, 1)
    for tick in range(ticks + 1):
        token = window.start + window.span * tick / ticks
        label = compact(token) if window.span > 4000 else f"{token:,.0f}"
        x = LABEL + round(inner * tick / ticks)
        x = x if tick < ticks else x - len(label)
        if not (taken and x < taken[1] and taken[0] < x + len(label)):
            canvas.text(x, y, label, Role.DIM)


def _selection(canvas: Canvas, y: int, frame: Frame) -> tuple[int, int] | None:
    """Draw the selected node's bracket; the cells [from, to) that it takes with its name."""
    node, inner = frame.view.node, canvas.width - LABEL
    if node is None or frame.row is None:
        return None
    start, stop = node.span(frame.row.block_size)
    left, right = column_of(frame, start, inner), column_of(frame, stop - 1e-6, inner)
    if right < 0 or left >= inner:
        return None
    left, right = max(left, 0), min(right, inner - 1)
    mark = "▲" if right <= left else "└" + "─" * (right - left - 1) + "┘"
    canvas.text(LABEL + left, y, mark, Role.SELECT, BOLD)
    name = str(node)
    x = LABEL + right + 2
    if x + len(name) > canvas.width:
        x = LABEL + left - 1 - len(name)
    canvas.text(x, y, name, Role.SELECT, BOLD)
    return min(x, LABEL + left) - 2, max(x + len(name), LABEL + right + 1) + 2


def _hit_marks(canvas: Canvas, y: int, frame: Frame) -> None:
    """Where the text last searched for is, under this row's actions."""
    inner, window = canvas.width - LABEL, frame.view.window
    if not len(frame.hits):
        return
    x = np.floor((frame.hits[:, 0] - window.start) / max(window.span, 1e-9) * inner)
    for cell in np.unique(x[(x >= 0) & (x < inner)].astype(np.int64)).tolist():
        canvas.text(LABEL + cell, y, "◇", Role.MARKER)


def _minimap(canvas: Canvas, y: int, frame: Frame, row: RowModel) -> None:
    """All of the history on one line, and which part of it the window shows."""
    inner, window = canvas.width - LABEL, frame.view.window
    share = row.after.columns(0.0, float(max(row.history, 1)), inner, None).share > 1e-9
    finest = np.where(share.any(axis=0), share.argmax(axis=0), 3).clip(0, 2)
    roles = np.array([level_role(0), level_role(1), level_role(2, 0)])[finest]
    total = max(row.history, 1)
    cells = np.arange(inner)
    inside = (cells >= int(window.start / total * inner)) & (
        cells < max(window.stop / total * inner, window.start / total * inner + 1)
    )
    glyphs = np.where(inside, ord("█"), ord("─"))
    canvas.text(0, y, "all", Role.DIM)
    canvas.cells(LABEL, y, glyphs, np.where(inside, int(Role.SELECT), roles), n=inner)


def draw_heat(frame: Frame, width: int, height: int, *, texture: bool) -> Canvas:
    """The scores of the frontier that was scored in this row, best score per column."""
    canvas = Canvas(width, height)
    row, inner = frame.row, width - LABEL
    if row is None or inner < 1 or height < 1:
        return canvas
    window = frame.view.window
    best = row.before.columns(window.start, window.stop, inner, row.scores).score
    if row.scores is None:
        best = frame.trail.heat_of(len(frame.trail) - 1, len(frame.trail), window, inner)[0]
    low, high = score_scale(frame)
    canvas.text(0, 0, "heat", Role.DIM)
    for y in range(height):
        _score_cells(canvas, y, best, low, high, texture=texture)
    return canvas


def score_scale(frame: Frame) -> tuple[float, float]:
    """Scores at the two ends of the ramp: fixed, or this row's own range."""
    row = frame.row
    if not frame.view.scale_per_step or row is None or row.scores is None:
        return -1.0, 1.0
    known = row.scores[np.isfinite(row.scores)]
    if not len(known) or float(known.max()) <= float(known.min()):
        return -1.0, 1.0
    return float(known.min()), float(known.max())


def scale_words(frame: Frame) -> str:
    """Which scale the score colours are on."""
    return "this step's range" if frame.view.scale_per_step else "fixed scale"


def scale_legend(frame: Frame, *, texture: bool = False) -> str:
    """The ramp as content markup: every colour that fills the screen, with its score."""
    low, high = score_scale(frame)
    if texture:  # each shade from the score at which it begins
        return " ".join(
            f"{chr(glyph)}≥{signed(low + share * (high - low))}"
            for share, glyph in zip(SHADE_FROM, SHADES[1:].tolist(), strict=True)
        )
    stops = ((0.0, "cold"), (0.5, "zero"), (0.75, "mild"), (1.0, "hot"))
    fixed = ("−1", "0", "+.5", "+1") if (low, high) == (-1.0, 1.0) else None
    scores = fixed or [signed(low + share * (high - low)) for share, _ in stops]
    parts = [f"[$mc-{name}]█[/]{score}" for (_, name), score in zip(stops, scores, strict=True)]
    return " ".join(parts)


def _score_cells(
    canvas: Canvas, y: int, best: F64, low: float, high: float, *, texture: bool
) -> None:
    known = np.isfinite(best)
    roles = np.where(known, score_role(best, low, high), int(Role.FAINT))
    if texture:
        glyphs = np.where(known, shade_glyphs(best, low, high), ord("·"))
        canvas.cells(LABEL, y, glyphs, roles, n=len(best))
    else:
        glyphs = np.where(known, FULL, ord("·"))
        canvas.cells(LABEL, y, glyphs, roles, n=len(best))


def draw_waterfall(frame: Frame, width: int, height: int, *, texture: bool) -> Canvas:
    """Focus over time: time runs down to the present row, two rows of the trace per line.

    With ``view.show_detail`` a cell shows the finest level of detail instead of the best score.
    """
    canvas = Canvas(width, height)
    inner, trail = width - LABEL, frame.trail
    if inner < 1 or height < 1:
        return canvas
    if not len(trail):
        _nothing_yet(canvas, frame)
        return canvas
    per_line = 1 if texture or frame.view.show_detail else 2
    newest = int(trail.numbers[-1])
    # Pairs of rows stay pairs as time goes on, so that lines move up unchanged.
    stop = len(trail) + (newest + 1) % per_line
    lines = min(height, -(-stop // per_line))
    first = stop - lines * per_line
    shown = -1
    for y in range(lines):
        number = max(newest - len(trail) + 1 + first + y * per_line, 0)
        step = frame.step_of(number)
        label = f"·{number - frame.first_row_of(step) + 1}" if step == shown else _step_label(step)
        canvas.text(0, y, f"{label:>{LABEL - 1}}", Role.CONTEXT)
        shown = step
    if frame.view.show_detail:
        window = frame.view.window
        for y in range(lines):
            levels = trail.detail_of(first + y, window.start, window.stop, inner)
            _detail_cells(canvas, y, levels)
    else:
        _heat_lines(canvas, frame, (first, len(trail)), per_line, texture=texture)
    _waterfall_marks(canvas, frame, first, per_line, lines)
    return canvas


def row_under(frame: Frame, y: int, height: int, *, texture: bool) -> int | None:
    """The row that line ``y`` of the waterfall shows; of two the one in which something moved."""
    trail = frame.trail
    per_line = 1 if texture or frame.view.show_detail else 2
    if not len(trail) or y < 0:
        return None
    newest = int(trail.numbers[-1])
    stop = len(trail) + (newest + 1) % per_line
    lines = min(height, -(-stop // per_line))
    if y >= lines:
        return None
    indices = range(stop - (lines - y) * per_line, stop - (lines - y - 1) * per_line)
    known = [row_index for row_index in indices if 0 <= row_index < len(trail)]
    acted = [p for p in known if (row := trail.rows[p]) is not None and row.actions]
    return int(trail.numbers[(acted or known)[-1]]) if known else None


def _step_label(step: int) -> str:
    """The step in the cells of a label; one that is too long says that it was cut."""
    step_label = str(step)
    return step_label if len(step_label) < LABEL else "…" + step_label[-(LABEL - 2) :]


def _nothing_yet(canvas: Canvas, frame: Frame) -> None:
    """Why there is nothing to see, in the middle of the largest pane."""
    step_label, role = story(frame)
    lines = [*wrap(step_label, max(canvas.width - 4, 1)), "", "? explains the picture · q quits"]
    top = max((canvas.height - len(lines)) // 2, 0)
    for y, line in enumerate(lines, top):
        canvas.text(
            max((canvas.width - len(line)) // 2, 0),
            y,
            line,
            role if y < top + len(lines) - 2 else Role.DIM,
        )


def _heat_lines(
    canvas: Canvas, frame: Frame, indices: tuple[int, int], per_line: int, *, texture: bool
) -> None:
    """Scores of the places [first, stop), ``per_line`` of them on one line."""
    inner = canvas.width - LABEL
    low, high = score_scale(frame)
    best = frame.trail.heat_of(*indices, frame.view.window, inner)
    if texture:
        for y in range(len(best)):
            _score_cells(canvas, y, best[y], low, high, texture=True)
        return
    roles = np.where(np.isfinite(best), score_role(best, low, high), int(Role.BASE))
    if len(roles) % per_line:  # the newest row is alone on its line so far
        roles = np.vstack([roles, np.full((1, inner), int(Role.BASE))])
    for y in range(len(roles) // 2):
        canvas.cells(LABEL, y, UPPER, roles[2 * y], roles[2 * y + 1], n=inner)


def _detail_cells(canvas: Canvas, y: int, levels: F64) -> None:
    known = np.isfinite(levels)
    clipped = np.nan_to_num(levels).astype(np.int64).clip(0, 2)
    roles = np.array([level_role(0), level_role(1, 2), level_role(2, 0)])[clipped]
    glyphs = np.array(GLYPH)[clipped]
    canvas.cells(
        LABEL,
        y,
        np.where(known, glyphs, 32),
        np.where(known, roles, int(Role.FAINT)),
        n=len(levels),
    )


def _waterfall_marks(canvas: Canvas, frame: Frame, first: int, per_line: int, lines: int) -> None:
    """Where the focus changed: one sign per action, over the cells of its row."""
    actions = frame.trail.actions(first, first + lines * per_line)
    if not actions:
        return
    inner, window = canvas.width - LABEL, frame.view.window
    row_index, kind, token = (np.array(column) for column in zip(*actions, strict=True))
    x = np.floor((token - window.start) / max(window.span, 1e-9) * inner).astype(np.int64)
    seen = (x >= 0) & (x < inner)
    y, x, kind = (row_index[seen] - first) // per_line, x[seen] + LABEL, kind[seen]
    under = np.maximum(canvas.fg[y, x], canvas.bg[y, x]).astype(np.int64)
    scored = (under >= Role.SCORE) & (under < Role.SCORE + RAMP)
    bright = scored & (under >= Role.SCORE + BRIGHT)
    halves = per_line == 2  # whole cells carry a glyph of their own, which the sign replaces
    roles = SIGN_ROLES[kind]  # on a bright cell the sign stands on the plain ground
    ground = np.where(scored & ~bright & halves, under, int(Role.BASE))
    canvas.scatter(x, y, SIGNS[kind], roles, ground, BOLD)
