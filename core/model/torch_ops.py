"""The steps of a Llama-type layer in plain PyTorch, for any device.

Shape legend: r rows, d model width, Hq query heads, H key/value heads, G = Hq / H, D head
dimension, S slots, f MLP width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.model.llama_weights import LlamaWeights
from megacontext.core.model.rotary import rotate_half
from megacontext.core.model.slotted_cache import SlottedCache, visible

__all__ = ["LayerOps", "TorchOps", "rms_norm"]


class LayerOps(Protocol):
    """What a Llama-type layer consists of. ``begin`` comes first; writes go to the cache."""

    def begin(self, slots: Tensor, orders: Tensor, positions: Tensor) -> None:
        """Prepare a batch of r rows: I64[r] each."""
        ...

    def queries(self, layer: int, x: Tensor) -> Tensor:
        """Of [r, d]: norm, queries, keys and values, norm and rotate them, write keys and values;
        the queries [r, Hq, D]."""
        ...

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """Attention of [r, Hq, D] over the live slots; [r, Hq * D]."""
        ...

    def gated(self, x: Tensor, norm: Tensor, gate_up: Tensor) -> Tensor:
        """RMSNorm, then silu(gate) * up: [r, d] -> [r, f]."""
        ...

    def linear_add(self, x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        """residual + linear(x): [r, n] -> [r, d]; may overwrite ``residual``."""
        ...

    def norm(self, x: Tensor, norm: Tensor) -> Tensor:
        """RMSNorm [r, d] -> [r, d]."""
        ...


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm as Llama computes it: statistics in float32, the product in the model's dtype."""
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


class TorchOps:
    """:class:`LayerOps` in plain PyTorch."""

    def __init__(self, weights: LlamaWeights, cache: SlottedCache) -> None:
        self._weights = weights
        self._cache = cache

    def begin(self, slots: Tensor, orders: Tensor, positions: Tensor) -> None:
        weights, cache = self._weights, self._cache
        cache.write_slots = slots
        cache.orders.index_copy_(0, slots, orders.int())
        group = weights.heads // weights.kv_heads
        mask = visible(cache.orders[: cache.columns], orders).repeat_interleave(group, dim=0)
        dtype = weights.embedding.dtype
        # Additive, made once: attention would turn a boolean mask into this in every layer.
        hidden = torch.full((), -torch.inf, dtype=dtype, device=cache.device)
        self._mask = torch.where(mask, torch.zeros_like(hidden), hidden)  # [r * G, columns]
        angle = positions.float()[:, None] * cache.rotary.inv_freq
        angle = torch.cat((angle, angle), dim=-1)[:, None]  # [r, 1, D]
        self._cos = (angle.cos() * weights.attention_scaling).to(dtype)
        self._sin = (angle.sin() * weights.attention_scaling).to(dtype)

    def queries(self, layer: int, x: Tensor) -> Tensor:
        weights = self._weights
        part = weights.layers[layer]
        qkv = functional.linear(self.norm(x, part.norm1), part.qkv, part.qkv_bias)
        q, k, v = torch.split(
            qkv.view(len(qkv), -1, weights.head_dim),
            [weights.heads, weights.kv_heads, weights.kv_heads],
            dim=1,
        )
        if part.query_norm is not None and part.key_norm is not None:
            q = rms_norm(q, part.query_norm, weights.eps)
            k = rms_norm(k, part.key_norm, weights.eps)
        if part.rotated:
            q = q * self._cos + rotate_half(q) * self._sin
            k = k * self._cos + rotate_half(k) * self._sin
        self._cache.write(layer, k.transpose(0, 1), v.transpose(0, 1))
        queries: Tensor = q
        return queries

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        heads, columns = self._weights.kv_heads, self._cache.columns
        rows, _, dim = queries.shape
        # Row and group share one axis, so that no key or value is repeated.
        q = queries.view(rows, heads, -1, dim).transpose(0, 1).reshape(1, heads, -1, dim)
        out = functional.scaled_dot_product_attention(
            q,
            self._cache.keys[layer, None, :, :columns],
            self._cache.values[layer, None, :, :columns],
            attn_mask=self._mask,
        )
        return out.view(heads, rows, -1, dim).transpose(0, 1).reshape(rows, -1)

    def gated(self, x: Tensor, norm: Tensor, gate_up: Tensor) -> Tensor:
        gate, up = functional.linear(self.norm(x, norm), gate_up).chunk(2, dim=-1)
        return functional.silu(gate) * up

    def linear_add(self, x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        return residual + functional.linear(x, weight)

    def norm(self, x: Tensor, norm: Tensor) -> Tensor:
        return rms_norm(x, norm, self._weights.eps)
