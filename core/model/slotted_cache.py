"""A KV cache of fixed shape whose rows lie in slots, in any order.

Shape legend: L layers, H key/value heads, S slots, D head dimension, d model width, r rows written
at once.

Every layer is a view of one storage ``[L, H, S, D]``, so one operation can move all shifted keys.
A key that is moved again and again would collect one rounding a move (in bfloat16 a few percent
after a thousand moves), so the rotated layers also keep each key as it was *born*, and a move
always starts from there: one rounding, however many moves.

The storage has more slots than asked for: up to a full tile, and one tile behind ``attended`` whose
``scratch`` slot takes the rows that only pad a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from megacontext.core.model.base import BaseModel
from megacontext.core.model.rotary import RotaryLayers, rotation, turn_into, turned

__all__ = ["DEAD", "SlottedCache", "visible"]

Snapshot = tuple[Tensor, tuple[Tensor, ...], NDArray[np.int64], NDArray[np.int64]]
"""What some slots held; see :meth:`SlottedCache.snapshot`."""

DEAD = -1
"""Window order of a slot that holds no live row."""

# Slots come in tiles of this many, so that kernels need no bounds inside a tile.
_TILE = 128
# Keys moved by one operation on a CPU; bounds the float32 intermediates.
_MOVE_CHUNK = 2048
# Share of the slots from which on a CPU turns all of them rather than gathers those that move.
_MOVE_ALL = 1 / 3


def visible(slot_orders: Tensor, orders: Tensor) -> Tensor:
    """Mask bool [r, columns]: live slots at or before each row in window order."""
    return (slot_orders >= 0) & (slot_orders <= orders[:, None])


class _SlottedLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One layer of the cache, as transformers' attention sees it."""

    is_compileable = False

    def __init__(self, cache: SlottedCache, number: int) -> None:
        super().__init__()
        self._cache = cache
        self._number = number
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the storage exists."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write rows [1, H, r, D] into their slots; return all columns a query may see."""
        keys, values = self._cache.write(self._number, key_states[0], value_states[0])
        return keys[None], values[None]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.columns, 0

    def get_seq_length(self) -> int:
        return self._cache.columns

    def get_max_length(self) -> int:
        return self._cache.slots


class SlottedCache(Cache):  # type: ignore[misc]  # transformers is untyped here
    """Keys, values and input embeddings in slots; the owner decides which row lies where.

    ``orders`` I32[S] is each slot's place in window order (-1: no live row) and ``inputs`` [S, d]
    its input embedding. All live slots are below ``columns``. Before a transformers forward
    ``write_slots`` I64[r] says where the new rows go.
    """

    def __init__(self, base: BaseModel, slots: int, rotary: RotaryLayers) -> None:
        layers, heads, dim = base.kv_shape
        self.slots = slots
        self.columns = 0
        self.rotary = rotary

        # Whole tiles of slots, and one tile for rows that only pad a batch.
        self.attended = -(-slots // _TILE) * _TILE
        self.scratch = self.attended
        stored = self.attended + _TILE

        # One storage for all layers.
        kind: dict[str, Any] = {"device": base.device, "dtype": base.dtype}
        self.keys = torch.zeros(layers, heads, stored, dim, **kind)
        self.values = torch.zeros(layers, heads, stored, base.value_dim, **kind)
        self.birth = torch.zeros(len(rotary.layers), heads, stored, dim, **kind)
        self.inputs = torch.zeros(stored, base.dim, **kind)
        self.orders = torch.full((stored,), DEAD, dtype=torch.int32, device=base.device)
        self.write_slots = torch.zeros(0, dtype=torch.int64, device=base.device)
        self.birth_index = {layer: i for i, layer in enumerate(rotary.layers)}
        self.rotated = torch.tensor(rotary.layers, dtype=torch.int64, device=base.device)

        # Where each key was computed and where it is now.
        self._born_at = np.zeros(stored, dtype=np.int64)  # position a key was computed at
        self._now_at = self._born_at.copy()  # position it has been moved to
        self.move_keys: Callable[[NDArray[np.int64], NDArray[np.int64]], None] = self._move_keys
        super().__init__(layers=[_SlottedLayer(self, i) for i in range(layers)])

    @property
    def device(self) -> torch.device:
        return self.keys.device

    @property
    def dtype(self) -> torch.dtype:
        return self.keys.dtype

    def place(self, slots: NDArray[np.int64]) -> None:
        """Declare the live rows: ``slots`` I64[n] in window order; all others are dead."""
        orders = np.full(len(self.orders), DEAD, dtype=np.int32)
        orders[slots] = np.arange(len(slots), dtype=np.int32)
        self.orders.copy_(torch.from_numpy(orders), non_blocking=True)
        self.columns = int(slots.max()) + 1 if len(slots) else 0

    def born(self, slots: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Note that rows are computed into ``slots`` at ``positions``."""
        self._born_at[slots] = self._now_at[slots] = positions
        self.columns = max(self.columns, int(slots.max()) + 1)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write rows [H, r, D] of one layer; return its columns, two [H, columns, D]."""
        slots = self.write_slots
        self.keys[layer].index_copy_(1, slots, keys)
        self.values[layer].index_copy_(1, slots, values)
        if layer in self.birth_index:
            self.birth[self.birth_index[layer]].index_copy_(1, slots, keys)
        return self.keys[layer, :, : self.columns], self.values[layer, :, : self.columns]

    def move(self, slots: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Rotate the keys in ``slots`` I64[m] to ``positions`` I64[m], in all rotated layers."""
        self._now_at[slots] = positions
        if self.rotary.layers and len(slots):
            self.move_keys(slots, positions - self._born_at[slots])

    def _move_keys(self, slots: NDArray[np.int64], delta: NDArray[np.int64]) -> None:
        if self.device.type == "cpu" and len(slots) > self.columns * _MOVE_ALL:
            self._place_all_keys()
            return
        for start in range(0, len(slots), _MOVE_CHUNK):
            part = torch.from_numpy(slots[start : start + _MOVE_CHUNK]).to(self.device)
            by = torch.from_numpy(delta[start : start + _MOVE_CHUNK]).to(self.device)
            turn = rotation(by, self.rotary.inv_freq)
            for layer, i in self.birth_index.items():  # a layer at a time stays in the CPU's cache
                moved = turned(self.birth[i].index_select(1, part), *turn)
                self.keys[layer].index_copy_(1, part, moved)

    def _place_all_keys(self) -> None:
        """Make every rotated key anew from its birth: in order, without gathering rows."""
        count = self.columns
        delta = self._now_at[:count] - self._born_at[:count]
        cos, sin = rotation(torch.from_numpy(delta), self.rotary.inv_freq)
        for layer, i in self.birth_index.items():
            turn_into(self.keys[layer, :, :count], self.birth[i, :, :count], cos, sin)

    def snapshot(self, slots: NDArray[np.int64]) -> Snapshot:
        """A copy of what lies in ``slots`` I64[m], for :meth:`restore`."""
        at = torch.from_numpy(slots.copy()).to(self.device)
        parts = tuple(t.index_select(2, at) for t in (self.keys, self.values, self.birth))
        return at, parts, slots.copy(), self._born_at[slots]

    def restore(self, saved: Snapshot) -> None:
        """Take the slots of a :meth:`snapshot` back to it."""
        at, parts, slots, born_at = saved
        for target, part in zip((self.keys, self.values, self.birth), parts, strict=True):
            target.index_copy_(2, at, part)
        self._born_at[slots] = born_at
