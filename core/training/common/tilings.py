"""Mixed tilings of a window of real text as index arrays.

A row's *table* is its T raw tokens, then the gists of its N chosen blocks, then the gists of its
M chosen groups of K blocks; ``entries`` are the indices in it of the window's entries, in order.

Only tokens that are raw in all compared windows are scored. A token is predicted from the entry
before it, raw or gist, and windows are aligned by position in the history, not in the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["RowTiling", "stack_tilings", "tile"]


@dataclass(frozen=True)
class RowTiling:
    """Index arrays of one row; see the module's docstring.

    Attributes:
        blocks: [N + M * K] blocks to encode, those of the groups last.
        entries: [L] window entries; entries_raw: [L - N - M] the same without gists.
        target: [S] history positions of scored tokens.
        predictor: [S] index in ``entries`` before each; predictor_raw: in ``entries_raw``.
    """

    blocks: np.ndarray
    entries: np.ndarray
    entries_raw: np.ndarray
    target: np.ndarray
    predictor: np.ndarray
    predictor_raw: np.ndarray


def tile(
    length: int,
    block_size: int,
    gists: np.ndarray,
    groups: np.ndarray,
    choose: np.ndarray | None = None,
) -> RowTiling:
    """The row in which ``gists`` (blocks) and ``groups`` (of K blocks) are coarse, the rest raw.

    Args:
        gists: sorted block numbers outside the groups. groups: sorted group numbers.
        choose: history positions to score where possible; all raw ones if not given.
    """
    n_blocks = length // block_size
    level = np.zeros(n_blocks, np.int64)
    level[gists] = 1
    in_groups = (groups[:, None] * block_size + np.arange(block_size)).ravel()
    level[in_groups] = 2
    slot = np.full(n_blocks, -1, np.int64)
    slot[gists] = length + np.arange(len(gists))
    coded = len(gists) + len(in_groups)
    slot[groups * block_size] = length + coded + np.arange(len(groups))
    raw = np.repeat(level == 0, block_size)
    # One value per token: its own index where raw, the gist's slot on a coarse entry's first.
    table = np.where(raw, np.arange(length), -1)
    table[np.arange(n_blocks) * block_size] = np.where(
        level == 0, np.arange(n_blocks) * block_size, slot
    )
    entries = table[table >= 0]
    entries_raw = np.flatnonzero(raw)
    is_raw = entries < length
    entry = np.full(length, -1, np.int64)
    entry[entries[is_raw]] = np.flatnonzero(is_raw)
    entry_raw = np.full(length, -1, np.int64)
    entry_raw[entries_raw] = np.arange(len(entries_raw))
    usable = np.flatnonzero((entry > 0) & (entry_raw > 0))
    target = usable if choose is None else np.intersect1d(usable, choose)
    return RowTiling(
        np.concatenate([gists, in_groups]).astype(np.int64),
        entries,
        entries_raw,
        target,
        entry[target] - 1,
        entry_raw[target] - 1,
    )


def stack_tilings(rows: list[RowTiling]) -> dict[str, Tensor]:
    """Rows of equal counts as int64 tensors [R, ...] by attribute name."""
    names = ("blocks", "entries", "entries_raw", "target", "predictor", "predictor_raw")
    return {n: torch.from_numpy(np.stack([getattr(row, n) for row in rows])) for n in names}
