"""Which action a person means by "the latest" (the f key), "next" and "previous" (. and ,)."""

from __future__ import annotations

import re

from megacontext.tui.sources.row_model import Act, RowModel
from megacontext.tui.sources.source import Source
from megacontext.tui.state.view import Node

__all__ = ["latest", "neighbour", "reaction"]

LOOK_BACK_ROWS = 2_000
REACTION_ROWS = 16
"""Rows after a marker in which an expansion counts as the answer to it."""
SPAN = re.compile(r"@(\d{1,15})-(\d{1,15})")
"""Tokens that a marker is about, as in "needle planted @1600-1632"."""


def latest(source: Source, here: int) -> tuple[RowModel, Act] | None:
    """The newest row at or before row ``here`` that did something, and its most telling action."""
    newest = min(here, source.num_rows - 1)
    for number in range(newest, max(newest - LOOK_BACK_ROWS, -1), -1):
        row = source.row(number)
        act = row.latest_action()
        if act is not None:
            return row, act
    return None


def neighbour(source: Source, node: Node | None, here: int, direction: int) -> int | None:
    """The nearest row after (+1) or before (-1) row ``here`` with an action, on ``node`` if any."""
    if node is None:  # hardly any row is without one
        ahead = range(here + direction, source.num_rows if direction > 0 else -1, direction)
        return next((number for number in ahead if source.row(number).actions), None)
    rows = source.acted(node)
    rows = rows[rows > here] if direction > 0 else rows[rows < here][::-1]
    return int(rows[0]) if len(rows) else None


def reaction(source: Source, row: RowModel) -> tuple[RowModel, Act] | None:
    """The expansion that the marker on ``row`` led to; None without marker or expansion.

    Among the rounds of the first step that expanded anything by choice: the finest level, then a
    node that an earlier marker names, then the highest score.
    """
    best: tuple[RowModel, Act] | None = None
    if not row.marker:
        return None
    for number in range(row.number, min(row.number + REACTION_ROWS, source.num_rows)):
        later = source.row(number)
        if best is not None and later.step != best[0].step:
            break
        for act in later.actions:
            is_target = act.kind == 0 and not act.forced
            if is_target and (
                best is None or _rank(source, act, row) < _rank(source, best[1], row)
            ):
                best = later, act
    return best


def _rank(source: Source, act: Act, row: RowModel) -> tuple[int, bool, float]:
    start, stop = act.node.span(row.block_size)
    named = (SPAN.search(m.label) for m in source.scalars.markers if m.row <= row.number)
    spans = [(int(s[1]), int(s[2])) for s in named if s]
    covers = any(low < stop and start < high for low, high in spans)
    return act.node.level, not covers, -act.score
