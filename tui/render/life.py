"""The curves of a node's life: its score, how the model saw it, and what happened to it."""

from __future__ import annotations

import numpy as np

from megacontext.tui.palette import Role, level_role, score_role
from megacontext.tui.render.canvas import BOLD, Canvas
from megacontext.tui.render.marks import KIND_ROLE, KIND_SIGN, LEVELS
from megacontext.tui.sources.node_history import STATES, Event, NodeLife
from megacontext.tui.sources.row_model import F64, I64

__all__ = ["LOW", "draw_life", "event_sign", "squeeze"]

LINES_FOR_BOTH = 12
"""Lines left in the pane from which on the newest rows get curves of their own."""
LOW = 14
"""Lines of a pane that is too low for names under the curves."""
GLYPH = np.array([ord(c) for c in " █▄▀▞"], np.int64)
ROLE = np.array(
    [int(Role.BASE), level_role(2), level_role(1), level_role(0), level_role(2, 1)], np.int64
)
TELLING = np.array([STATES.index(s) for s in ("absent", "inside", "open", "gist", "raw")])
"""States by how much a reader wants to see them where several share a cell."""


def event_sign(event: Event) -> tuple[str, int]:
    """Glyph and role of an event."""
    if event.what == "refused":
        return "✗", int(Role.WARN)
    return KIND_SIGN[event.kind], KIND_ROLE[event.kind]


def squeeze(scores: F64, states: I64, width: int) -> tuple[F64, I64, I64]:
    """Rows onto at most ``width`` cells.

    Returns:
        The best score of each cell (NaN where there is none), its most telling state, and the
        cell of each row.
    """
    n = len(scores)
    if n <= width:
        return scores, states, np.arange(n)
    cell = np.arange(n) * width // n
    first = np.searchsorted(cell, np.arange(width))
    best = np.maximum.reduceat(np.where(np.isfinite(scores), scores, -np.inf), first)
    rank = np.empty(len(TELLING), np.int64)
    rank[TELLING] = np.arange(len(TELLING))
    state = TELLING[np.maximum.reduceat(rank[states], first)]
    return np.where(np.isfinite(best), best, np.nan), state, cell


def draw_life(canvas: Canvas, y: int, life: NodeLife) -> int:
    """The whole life from the row that closed the node on, then its newest rows; the next line."""
    born = np.flatnonzero(life.states != STATES.index("absent"))
    if not len(born) or canvas.width < 1:
        return y
    oldest, width = int(born[0]), canvas.width
    name = "its whole life" if life.complete else "its life as far as read"
    y = _stretch(canvas, y, life, oldest, name)
    newest = len(life.rows) - width
    if canvas.height - y < LINES_FOR_BOTH:
        return y
    if newest > oldest:
        y = _stretch(canvas, y, life, newest, "the newest of it")
    return _legend(canvas, y)


def _legend(canvas: Canvas, y: int) -> int:
    x = 0
    for state, word in (
        ("raw", "raw"),
        ("gist", "gist"),
        ("inside", "hidden"),
        ("open", "expanded"),
    ):
        state_index = STATES.index(state)
        x = canvas.text(x, y, chr(GLYPH[state_index]), int(ROLE[state_index]))
        x = canvas.text(x, y, f" {word}  ", Role.CONTEXT)
    return y + 1


def _stretch(canvas: Canvas, y: int, life: NodeLife, first: int, name: str) -> int:
    """Three lines of curves of the rows from place ``first`` on, and what they span."""
    scores, states, cell = squeeze(life.scores[first:], life.states[first:], canvas.width)
    known = np.isfinite(scores)
    steps = np.clip((np.nan_to_num(scores) + 1) * 4, 0, 7).astype(np.int64)
    glyphs = np.where(known, np.array([ord(c) for c in LEVELS])[steps], ord("·"))
    canvas.cells(0, y, glyphs, np.where(known, score_role(scores), int(Role.FAINT)), n=len(scores))
    canvas.cells(0, y + 1, GLYPH[states], ROLE[states], n=len(states))
    by_importance = sorted(life.events, key=lambda event: event.what != "refused")
    for event in by_importance:
        state_index = int(np.searchsorted(life.rows, event.row)) - first
        if 0 <= state_index < len(cell):
            sign, role = event_sign(event)
            canvas.text(int(cell[state_index]), y + 2, sign, role, BOLD)
    if canvas.height < LOW:
        return y + 3
    rows = len(life.rows) - first
    label = f"↑ {name}, {rows:,} round{'s' if rows != 1 else ''} "
    canvas.text(0, y + 3, label, Role.CONTEXT)
    return y + 4
