"""Computing rows against a slotted cache; the generic way, through the Hugging Face forward."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megacontext.core.model.base import BaseModel, Forward
from megacontext.core.model.rotary import RotaryLayers
from megacontext.core.model.slotted_cache import KVShape, SlottedCache

__all__ = ["HFRunner", "RowRunner", "kv_shape", "visible"]

DEAD = -1
"""Window order of a slot that holds no live row."""


class RowRunner(Protocol):
    """Computes rows of the window and writes their keys and values into the cache."""

    cache: SlottedCache

    def set_orders(self, orders: NDArray[np.int32], columns: int) -> None:
        """Tell the window order of every slot (I32[S], -1 is dead); live slots < ``columns``."""
        ...

    def run(
        self,
        x: Tensor,
        positions: NDArray[np.int64],
        orders: NDArray[np.int64],
        slots: NDArray[np.int64],
        keep: int,
    ) -> Forward:
        """Compute rows x [r, d]; a row of order o sees every live slot with order <= o."""
        ...

    def describe(self) -> str:
        """One clause on how rows are computed."""
        ...


def kv_shape(base: BaseModel) -> KVShape:
    """(layers, key/value heads, head dimension) of the model's cache."""
    config = base.config
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return int(config.num_hidden_layers), kv_heads, dim


def visible(slot_orders: Tensor, orders: Tensor) -> Tensor:
    """Mask bool [r, columns]: live slots at or before each row in window order."""
    return (slot_orders >= 0) & (slot_orders <= orders[:, None])


class HFRunner:
    """Any architecture: the transformers forward with a slotted cache and a 4-D mask."""

    def __init__(self, base: BaseModel, slots: int, rotary: RotaryLayers) -> None:
        self.base = base
        self.cache = SlottedCache(
            kv_shape(base), slots, rotary, device=base.device, dtype=base.dtype
        )
        self._orders = torch.full((slots,), DEAD, dtype=torch.int64, device=base.device)

    def set_orders(self, orders: NDArray[np.int32], columns: int) -> None:
        self._orders.copy_(torch.from_numpy(orders))
        self.cache.columns = columns

    def run(
        self,
        x: Tensor,
        positions: NDArray[np.int64],
        orders: NDArray[np.int64],
        slots: NDArray[np.int64],
        keep: int,
    ) -> Forward:
        device = self.base.device
        mask = visible(self._orders[: self.cache.columns], torch.from_numpy(orders).to(device))
        self.cache.write_slots = torch.from_numpy(slots).to(device)
        self.cache.born(slots, positions)
        return self.base.forward_rows(
            x, torch.from_numpy(positions).to(device), mask, self.cache, keep
        )

    def describe(self) -> str:
        return f"transformers forward of {type(self.base.module).__name__}"
