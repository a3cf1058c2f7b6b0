"""How much attention the newest rows pay to each slot, without an eager copy of the model.

The newest rows run once more through the transformers forward with an attention function that
keeps its weights; what they wrote into the cache is taken back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface

from megacontext.core.model.base import BaseModel
from megacontext.core.model.row_table import RowTable
from megacontext.core.model.runner import HFRunner
from megacontext.core.model.slotted_cache import SlottedCache
from megacontext.traces.errors import ModelError

__all__ = ["column_mass", "entry_mass"]

_NAME = "megacontext_mass"


@torch.no_grad()
def column_mass(
    base: BaseModel,
    cache: SlottedCache,
    slots: NDArray[np.int64],
    orders: NDArray[np.int64],
    positions: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Attention weights of the rows in ``slots``, F32[L, columns], mean over heads and rows."""
    saved = cache.snapshot(slots)
    masses: list[Tensor] = []
    AttentionInterface.register(_NAME, _recording(masses))
    before = base.config._attn_implementation
    base.config._attn_implementation = _NAME
    try:
        HFRunner(base, cache).run(slots, orders, positions, keep=1)
    finally:
        base.config._attn_implementation = before
        cache.restore(saved)
    if not masses:
        raise ModelError(
            f"lens.kind is attention but model '{base.name}' ({type(base.module).__name__}) "
            "computes its attention in a way that gives no weights, use another lens"
        )
    found: NDArray[np.float32] = torch.stack(masses).cpu().numpy()
    return found


def entry_mass(
    base: BaseModel,
    cache: SlottedCache,
    table: RowTable,
    entry_rows: NDArray[np.int64],
    queries: int,
) -> NDArray[np.float32]:
    """Attention weights of the newest rows, summed over each frontier entry: F32[L, n].

    Args:
        base: the model of ``cache``.
        cache: keys and values of all rows.
        table: the rows in window order.
        entry_rows: I64[n], rows of each entry, from the window's first row on.
        queries: how many of the newest rows ask.
    """
    slots, positions = table.slots[-queries:].copy(), table.positions[-queries:].copy()
    orders = np.arange(len(table) - queries, len(table))
    columns = column_mass(base, cache, slots, orders, positions)

    rows = columns[:, table.slots[: int(entry_rows.sum())]]
    ends = np.cumsum(entry_rows)
    total = np.pad(np.cumsum(rows, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    return (total[:, ends] - total[:, ends - entry_rows]).astype(np.float32)


def _recording(masses: list[Tensor]) -> Any:
    """An attention function of transformers that adds each layer's mean weights to ``masses``."""

    def attend(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        scaling: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        heads, rows, dim = query.shape[1:]
        grouped = query.reshape(1, key.shape[1], -1, dim)  # [1, H, G * r, D]
        scale = dim**-0.5 if scaling is None else scaling
        scores = (grouped @ key.transpose(2, 3)).float().view(1, heads, rows, -1) * scale
        weights = scores.masked_fill(~attention_mask, -torch.inf).softmax(-1)
        masses.append(weights.mean(dim=(0, 1, 2)))
        mixed = weights.to(value.dtype).view(1, key.shape[1], -1, weights.shape[-1]) @ value
        return mixed.view(1, heads, rows, -1).transpose(1, 2).contiguous(), None

    return attend
