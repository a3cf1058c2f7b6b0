"""Mixed tilings of a window of real text as index arrays.

A row's *table* is its T raw tokens, then the gists of its N chosen blocks, then the gists of its
M chosen groups of K blocks; ``kept`` picks the window's entries from it in order.

A token is scored where it is raw in every compared window. Its predictor is the entry before it,
whatever that is, and windows are compared by the token's place in the history, never by its
place in a window.
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
        kept: [L] window entries; kept_raw: [L - N - M] the same without gists.
        target: [S] history positions of scored tokens.
        predictor: [S] entry of ``kept`` before each; predictor_raw: the same for ``kept_raw``.
    """

    blocks: np.ndarray
    kept: np.ndarray
    kept_raw: np.ndarray
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
    within = (groups[:, None] * block_size + np.arange(block_size)).ravel()
    level[within] = 2
    slot = np.full(n_blocks, -1, np.int64)
    slot[gists] = length + np.arange(len(gists))
    coded = len(gists) + len(within)
    slot[groups * block_size] = length + coded + np.arange(len(groups))
    raw = np.repeat(level == 0, block_size)
    # One value per token: its own index where raw, the gist's slot on a coarse entry's first.
    table = np.where(raw, np.arange(length), -1)
    table[np.arange(n_blocks) * block_size] = np.where(
        level == 0, np.arange(n_blocks) * block_size, slot
    )
    kept = table[table >= 0]
    kept_raw = np.flatnonzero(raw)
    is_raw = kept < length
    entry = np.full(length, -1, np.int64)
    entry[kept[is_raw]] = np.flatnonzero(is_raw)
    entry_raw = np.full(length, -1, np.int64)
    entry_raw[kept_raw] = np.arange(len(kept_raw))
    usable = np.flatnonzero((entry > 0) & (entry_raw > 0))
    target = usable if choose is None else np.intersect1d(usable, choose)
    return RowTiling(
        np.concatenate([gists, within]).astype(np.int64),
        kept,
        kept_raw,
        target,
        entry[target] - 1,
        entry_raw[target] - 1,
    )


def stack_tilings(rows: list[RowTiling]) -> dict[str, Tensor]:
    """Rows of equal counts as int64 tensors [R, ...] by attribute name."""
    names = ("blocks", "kept", "kept_raw", "target", "predictor", "predictor_raw")
    return {n: torch.from_numpy(np.stack([getattr(row, n) for row in rows])) for n in names}
