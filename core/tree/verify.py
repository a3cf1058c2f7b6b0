"""The full check of a tree: everything that opening is too quick to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megacontext.core.geometry import node_count
from megacontext.core.tree.buffer import RamRows, Rows
from megacontext.core.tree.codec import STORED
from megacontext.core.tree.ctxfile import CtxFile
from megacontext.core.tree.level import KEY_DTYPE, Level, bring_up_to_date
from megacontext.core.tree.spec import Gister, Progress, TreeSpec

__all__ = ["problems", "ram_levels"]

_CHUNK = 1 << 20


def ram_levels(spec: TreeSpec) -> list[Level]:
    """Empty levels in memory."""
    return [
        Level(
            number,
            spec,
            RamRows((spec.dim,), STORED[spec.dtype]),
            RamRows((spec.key_dim,), STORED[KEY_DTYPE]),
        )
        for number in range(1, spec.max_levels + 1)
    ]


def problems(
    tokens: Rows,
    levels: Sequence[Level],
    spec: TreeSpec,
    gister: Gister | None,
    tolerance: float,
    progress: Progress | None,
    allow_missing: bool = False,
) -> list[str]:
    """One sentence per finding; empty for a sound tree.

    Args:
        gister: recompute all gists.
        allow_missing: levels may lag the tokens, since a writer is committing them.
    """
    problems: list[str] = []
    for rows in (tokens, *(rows for level in levels for rows in (level.gists, level.keys))):
        if isinstance(rows, CtxFile):
            problems += rows.problems()
    for start in range(0, tokens.count, _CHUNK):
        piece = tokens.view(start, min(start + _CHUNK, tokens.count))
        if piece.max() >= spec.vocab_size:
            at = int(np.argmax(piece >= spec.vocab_size))
            problems.append(
                f"token {start + at} is {piece[at]}, not below vocab_size {spec.vocab_size}."
            )
            break
    for level in levels:
        nodes = node_count(level.number, tokens.count, spec.block_size)
        if level.count > nodes or (level.count < nodes and not allow_missing):
            problems.append(f"level {level.number} holds {level.count} nodes instead of {nodes}.")
    if gister is not None and not problems:
        problems += _recompute(tokens, levels, spec, gister, tolerance, progress)
    return problems


def _recompute(
    tokens: Rows,
    levels: Sequence[Level],
    spec: TreeSpec,
    gister: Gister,
    tolerance: float,
    progress: Progress | None,
) -> list[str]:
    fresh = ram_levels(spec)
    bring_up_to_date(tokens, fresh, spec, gister, progress)
    problems = []
    for level, fresh_level in zip(levels, fresh, strict=True):
        for what, have, expected in (
            ("gist", level.vectors(0, level.count), fresh_level.vectors(0, level.count)),
            ("key", level.index_keys(0, level.count), fresh_level.index_keys(0, level.count)),
        ):
            wrong = np.flatnonzero((np.abs(have - expected) > tolerance).any(axis=1))
            if len(wrong):
                problems.append(
                    f"the {what} of node {wrong[0]} of level {level.number} differs from a new "
                    f"one ({len(wrong)} of {level.count} nodes do)."
                )
    return problems
