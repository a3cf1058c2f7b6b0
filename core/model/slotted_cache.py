"""A KV cache of fixed shape whose rows lie in slots, in any order.

Shape legend: L layers, H key/value heads, S slots, D head dimension, r rows written at once.

Every layer is a view of one storage ``[L, H, S, D]``, so one operation can move all shifted keys.
A key that is moved again and again would collect one rounding a move (in bfloat16 a few percent
after a thousand moves), so the rotated layers also keep each key as it was *born*, and a move
always starts from there: one rounding, however many moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from megacontext.core.model.rotary import RotaryLayers, rotate_keys

__all__ = ["KVShape", "SlottedCache"]

KVShape = tuple[int, int, int]
"""(layers L, key/value heads H, head dimension D)."""

# Keys moved by one operation; bounds the float32 intermediates.
_MOVE_CHUNK = 2048


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
    """Keys and values in slots; the owner decides which row lies where.

    Before a forward the owner sets ``write_slots`` I64[r] and ``columns`` (the slots that the
    mask has); the layers write the new rows there and return the first ``columns`` slots.
    """

    def __init__(
        self,
        shape: KVShape,
        slots: int,
        rotary: RotaryLayers,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        layers, heads, dim = shape
        self.slots = slots
        self.columns = slots
        self.rotary = rotary
        self.keys = torch.zeros(layers, heads, slots, dim, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.write_slots = torch.zeros(0, dtype=torch.int64, device=device)
        self._born_at = np.zeros(slots, dtype=np.int64)  # position a key was computed at
        self.birth = torch.zeros(len(rotary.layers), heads, slots, dim, device=device, dtype=dtype)
        self._birth_index = {layer: i for i, layer in enumerate(rotary.layers)}
        super().__init__(layers=[_SlottedLayer(self, i) for i in range(layers)])

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write rows [H, r, D] of one layer; return its columns, two [H, columns, D]."""
        slots = self.write_slots
        self.keys[layer].index_copy_(1, slots, keys)
        self.values[layer].index_copy_(1, slots, values)
        if layer in self._birth_index:
            self.birth[self._birth_index[layer]].index_copy_(1, slots, keys)
        return self.keys[layer, :, : self.columns], self.values[layer, :, : self.columns]

    def born(self, slots: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Note that the keys in ``slots`` were computed at ``positions``."""
        self._born_at[slots] = positions

    def move(self, slots: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Rotate the keys in ``slots`` I64[m] to ``positions`` I64[m], in all rotated layers."""
        if not len(self.rotary.layers):
            return
        delta = positions - self._born_at[slots]
        for start in range(0, len(slots), _MOVE_CHUNK):
            part = torch.from_numpy(slots[start : start + _MOVE_CHUNK]).to(self.keys.device)
            by = torch.from_numpy(delta[start : start + _MOVE_CHUNK]).to(self.keys.device)
            moved = rotate_keys(self.birth[:, :, part], by, self.rotary.inv_freq)
            for i, layer in enumerate(self.rotary.layers):
                self.keys[layer].index_copy_(1, part, moved[i])

    def snapshot(self) -> tuple[Tensor, ...]:
        """A copy of the contents, for :meth:`restore`."""
        born_at = torch.from_numpy(self._born_at.copy())
        return self.keys.clone(), self.values.clone(), self.birth.clone(), born_at

    def restore(self, saved: tuple[Tensor, ...]) -> None:
        """Take the contents back to a :meth:`snapshot`."""
        keys, values, birth, born_at = saved
        self.keys.copy_(keys)
        self.values.copy_(values)
        self.birth.copy_(birth)
        self._born_at[:] = born_at.numpy()
