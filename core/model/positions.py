"""Positions of the window's rows, as the base model's position embedding sees them.

``packed``: 0, 1, 2, … in window order. Stays inside the trained range whatever the history.

``global``: the token's place in the history; a gist sits at the centre of its span,
``start + (width - 1) // 2``. Leaves the trained range when the history does.

``gap``: distances between raw tokens stay true and a gist keeps a part of the distance that its
span covers: a raw row advances the position by 1, a gist of width w by ``max(1, w // G)`` and sits
at the centre of that stretch. G is the smallest power of two (up to 2**62) for which all rows and
the free rest of the budget fit ``limit`` positions. So G = 1 is ``global`` shifted by nothing while
the history fits the trained window, and a growing G tends to ``packed``. The rule follows the
grouped far positions of Self-Extend (Jin et al., 2024, "LLM Maybe LongLM") with two differences:
the near window is every raw row, and positions increase strictly, so no two keys coincide.
Positions are a function of the layout alone; a change of G moves all of them at once.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from megacontext.core.model.layout import Rows

__all__ = ["POSITION_MODES", "PositionMode", "row_positions"]

PositionMode = Literal["packed", "global", "gap"]
POSITION_MODES: tuple[PositionMode, ...] = get_args(PositionMode)


def row_positions(
    mode: PositionMode, rows: Rows, w_max: int, limit: int
) -> tuple[NDArray[np.int64], int]:
    """Position of every row, strictly increasing, I64[r]; and that of the next raw token.

    Args:
        mode: one of :data:`POSITION_MODES`.
        rows: the window's rows.
        w_max: the window's budget in rows; ``gap`` leaves room for what is still free.
        limit: positions that the model was trained on; used by ``gap`` alone.
    """
    if mode == "packed":
        return np.arange(len(rows), dtype=np.int64), len(rows)
    if mode == "global":
        after = int(rows.starts[-1] + rows.widths[-1]) if len(rows) else 0
        return rows.starts + (rows.widths - 1) // 2, after
    advance = _gap_advance(rows, limit - max(w_max - len(rows), 0))
    ends: NDArray[np.int64] = np.cumsum(advance)
    return ends - advance + (advance - 1) // 2, int(advance.sum())


def _gap_advance(rows: Rows, room: int) -> NDArray[np.int64]:
    for shift in range(63):
        advance: NDArray[np.int64] = np.maximum(rows.widths >> shift, 1)
        if int(advance.sum()) <= room:
            return advance
    return np.ones(len(rows), dtype=np.int64)
