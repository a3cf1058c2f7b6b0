"""Input embeddings of the window's rows: raw tokens from the model, gists from the tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from megacontext.core.model.base import BaseModel
from megacontext.core.model.row_table import RowTable
from megacontext.core.model.slotted_cache import SlottedCache

__all__ = ["TokenSource", "VectorSource", "load_inputs", "set_inputs"]

VectorSource = Callable[[int, NDArray[np.int64]], Any]
"""(level, node indices I64[n]) -> gist vectors F32[n, d], numpy or torch."""
TokenSource = Callable[[int, int], ArrayLike]
"""(start, stop) -> token ids of the history [start, stop)."""


def load_inputs(
    base: BaseModel,
    cache: SlottedCache,
    table: RowTable,
    inserted: NDArray[np.int64],
    vectors: VectorSource,
    tokens: TokenSource,
) -> None:
    """Fetch the input embeddings of the rows ``inserted`` I64[n] of ``table`` into ``cache``."""
    levels, values = table.rows.levels[inserted], table.rows.values[inserted]

    # Raw rows: token ids a run at a time, embedded at once.
    raw = inserted[levels == 0]
    if len(raw):
        positions = values[levels == 0]
        runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
        ids = [np.asarray(tokens(int(run[0]), int(run[-1]) + 1)) for run in runs]
        set_inputs(cache, table.slots[raw], base.embed(np.concatenate(ids)))

    # Gists, a level at a time.
    for level in np.unique(levels[levels > 0]):
        of_level = levels == level
        gists = torch.as_tensor(vectors(int(level), values[of_level]))
        set_inputs(cache, table.slots[inserted[of_level]], gists)


def set_inputs(cache: SlottedCache, slots: NDArray[np.int64], x: Tensor) -> None:
    """Write input embeddings [n, d] to ``slots`` I64[n]."""
    at = torch.from_numpy(slots).to(cache.inputs.device, non_blocking=True)
    x = x.to(cache.inputs.device, cache.inputs.dtype, non_blocking=True)
    cache.inputs.index_copy_(0, at, x)
