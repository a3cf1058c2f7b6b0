"""What two runs have in common and where they part: texts, configs, and the next difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import yaml

from megacontext.tui.render.difference import compare
from megacontext.tui.sources.row_model import I64
from megacontext.tui.sources.source import Source
from megacontext.tui.state.frame import RunInfo

__all__ = ["config_differences", "next_difference", "same_moment", "texts_part_at"]

CHUNK = 4096
SHARES = 0.01
"""Change of what one run sees finer, as a fraction of the history, that counts as a difference."""


def texts_part_at(first: Source, second: Source, start: int = 0) -> int | None:
    """The first token at or after ``start`` whose text differs; None where all common ones are
    equal."""
    common = min(first.num_tokens, second.num_tokens)
    while start < common:
        stop = min(start + CHUNK, common)
        (a, _), (b, _) = first.pieces(start, stop), second.pieces(start, stop)
        if a != b:
            pairs = enumerate(zip(a, b, strict=False))
            return start + next((n for n, (x, y) in pairs if x != y), min(len(a), len(b)))
        start = stop
    return None


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        flat: dict[str, str] = {}
        for key, item in value.items():
            flat |= _flat(item, f"{path}.{key}" if path else str(key))
        return flat
    return {path: str(value)}


def config_differences(first: RunInfo, second: RunInfo) -> list[tuple[str, str, str]]:
    """(key, value of the first, value of the second) of every key on which the configs differ,
    those outside ``source`` first; "–" where one has no such key."""
    try:
        a, b = (_flat(yaml.safe_load(info.config) or {}) for info in (first, second))
    except yaml.YAMLError:
        return []
    keys = [key for key in (a | b) if a.get(key, "–") != b.get(key, "–")]
    keys.sort(key=lambda key: key.startswith("source"))
    return [(key, a.get(key, "–"), b.get(key, "–")) for key in keys]


def same_moment(leader: I64, position: int, follower: I64) -> int:
    """The follower's row at the leader's row ``position``: tokens read first, then the round.

    Where the follower has no row with just as many tokens, its last one with fewer.
    """
    if not len(leader):
        return 0
    tokens = leader[position]
    rounds = position - int(np.searchsorted(leader, tokens, "left"))
    first, stop = (int(np.searchsorted(follower, tokens, side)) for side in ("left", "right"))
    return min(first + rounds, stop - 1) if first < stop else max(first - 1, 0)


def next_difference(
    leader: Source, follower: Source, here: int, direction: int, late: Callable[[], bool]
) -> tuple[int | None, int]:
    """The nearest row of the leader at which the two see the history otherwise than at ``here``.

    Returns:
        That row (None where there is none, or the time was up), and the row that was looked at
        last.
    """
    if not leader.num_rows or not follower.num_rows:
        return None, here
    now = _finer(leader, follower, here)
    number = here
    stop = leader.num_rows if direction > 0 else -1
    for number in range(here + direction, stop, direction):
        finer = _finer(leader, follower, number)
        if any(abs(x - y) >= SHARES for x, y in zip(now, finer, strict=True)):
            return number, number
        if late():
            break
    return None, number


def _finer(leader: Source, follower: Source, number: int) -> tuple[float, float]:
    other = same_moment(leader.scalars.history, number, follower.scalars.history)
    comparison = compare(leader.row(number), follower.row(other))
    return comparison.finer_a, comparison.finer_b
