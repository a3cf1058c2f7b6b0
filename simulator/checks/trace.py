"""What a trace must say: the rows that were put, a prefix of them after a crash, and rows that
follow from one another by the rule of the format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np

from megacontext.simulator.checks.frontier import Shadow
from megacontext.simulator.checks.invariant import InvariantError
from megacontext.traces.row import TraceRow

__all__ = ["check_rows_equal", "check_rows_follow"]

_COMPUTED = frozenset({"crc", "heat", "scores_dropped"})
_COMPARED = tuple(entry.name for entry in fields(TraceRow) if entry.name not in _COMPUTED)


def check_rows_equal(read: Iterable[TraceRow], put: Sequence[TraceRow]) -> int:
    """Every row read is the row that was put at its place; returns the number of rows read."""
    count = 0
    for have, expected in zip(read, put, strict=False):
        for name in _COMPARED:
            left, right = getattr(have, name), getattr(expected, name)
            same = (
                np.asarray(left).tobytes() == np.asarray(right).tobytes()
                if isinstance(right, np.ndarray)
                else left == right
            )
            if not same:
                raise InvariantError(
                    "trace",
                    f"{name} of row {count} (step {expected.step}) is {left!r}, not {right!r}",
                )
        count += 1
    return count


def check_rows_follow(rows: Iterable[TraceRow], block_size: int, max_levels: int) -> int:
    """Levels, actions and budget of each row lead to the next row; returns the rows checked."""
    shadow = Shadow(block_size, max_levels)
    count = 0
    for row in rows:
        where = f"row {count} (step {row.step}, round {row.round})"
        if count == 0:
            shadow.reset(row.levels.tolist(), row.history_tokens)
        else:
            shadow.append(row.history_tokens - shadow.n_tokens, row.appended_levels.tolist())
        if bytes(shadow.levels) != row.levels.tobytes():
            raise InvariantError("trace", f"the levels of {where} do not follow")
        if row.tail_tokens != shadow.tail:
            raise InvariantError("trace", f"the tail of {where} is {shadow.tail}")
        for kind, level, index, *_ in row.actions.tolist():
            (shadow.collapse if kind else shadow.expand)(level, index)
        if row.budget_used != shadow.cost:
            raise InvariantError("trace", f"{where} says {row.budget_used} entries used")
        count += 1
    return count
