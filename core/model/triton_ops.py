"""The steps of a Llama-type layer as Triton kernels; see :class:`LayerOps` for the contract.

One row is bound by reading the weights, so its linear maps are matrix-vector kernels with what
stands before and behind them fused in: norm, bias, rotation and the write to the cache; the gate;
the residual. Six kernels a layer. Several rows go through cuBLAS. Attention reads the live slots
once for all query heads of a group, split over the multiprocessors (Dao et al., 2023,
"Flash-Decoding for long-context inference").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from megacontext.core.model import triton_kernels as kernels
from megacontext.core.model import triton_token_kernels as token_kernels
from megacontext.core.model.llama_weights import LlamaWeights
from megacontext.core.model.slotted_cache import SlottedCache

__all__ = ["AttendShape", "GemvShape", "TritonOps", "Tuning", "triton_move"]

_CHOICE_BLOCK = 2048
"""Logits of one program of the choice."""


@dataclass(frozen=True)
class GemvShape:
    """Tile of a matrix-vector kernel: ``block_n`` outputs by ``block_k`` inputs."""

    block_n: int
    block_k: int
    warps: int


@dataclass(frozen=True)
class AttendShape:
    """Tile of the attention kernel: ``block_m`` queries by ``block_s`` slots; about ``programs``
    programs share the work."""

    block_m: int
    block_s: int
    warps: int
    programs: int


@dataclass(frozen=True)
class Tuning:
    """Launch shapes, measured on one H200 with the SmolLM3-3B shape.

    ``early``: the kernels of a one-row step start before the one before them has ended (2.55 ms
    become 2.35; with several rows, between cuBLAS calls, it costs a little instead).
    """

    qkv: GemvShape = GemvShape(4, 1024, 4)  # with queries_kernel block_n outputs of either half
    out: GemvShape = GemvShape(2, 2048, 2)
    gate_up: GemvShape = GemvShape(4, 512, 2)
    down: GemvShape = GemvShape(2, 2048, 4)
    head: GemvShape = GemvShape(8, 1024, 4)
    token_attend: AttendShape = AttendShape(16, 128, 4, 256)
    rows_attend: AttendShape = AttendShape(64, 128, 4, 264)
    early: bool = True


_NARROW = Tuning(
    out=GemvShape(4, 1024, 4),
    gate_up=GemvShape(4, 1024, 4),
    down=GemvShape(2, 2048, 8),
    head=GemvShape(16, 512, 4),
)
"""For models of at most 1,024 values a row, measured with Qwen2.5-0.5B (570 us become 545)."""


class TritonOps:
    """:class:`~megacontext.core.model.torch_ops.LayerOps` for a GPU."""

    def __init__(
        self, weights: LlamaWeights, cache: SlottedCache, tuning: Tuning | None = None
    ) -> None:
        self._weights = weights
        self._cache = cache
        narrow = weights.embedding.shape[1] <= 1024
        self.tuning = tuning or (_NARROW if narrow else Tuning())
        self._scale_log2 = weights.head_dim**-0.5 * math.log2(math.e)
        self._launch: dict[str, bool] = {"EARLY": False}
        self._precision = "ieee" if weights.embedding.dtype == torch.float32 else "tf32"

    def begin(self, slots: Tensor, orders: Tensor, positions: Tensor) -> None:
        self._slots = slots
        self._launch = {"EARLY": False}
        self._orders = orders.int()
        self._cache.orders.index_copy_(0, slots, self._orders)
        angle = positions.float()[:, None] * self._cache.rotary.inv_freq
        self._cos = angle.cos() * self._weights.attention_scaling
        self._sin = angle.sin() * self._weights.attention_scaling

    def begin_token(self, newest: Tensor, turn: Tensor, chosen: Tensor) -> Tensor:
        """Prepare the step of one row; its embedding [1, d].

        Args:
            newest: int32, what the host sent; see :mod:`.token_step`.
            turn: its cosines and sines, float32 [D].
            chosen: int64 [1], the token to read if the host does not know it.
        """
        self._slots, self._orders = newest[1:2], newest[2:3]
        self._cos, self._sin = turn.chunk(2)
        early = {"EARLY": True, "launch_pdl": True}
        self._launch = early if self.tuning.early else {"EARLY": False}
        embedding, cache = self._weights.embedding, self._cache
        x = embedding.new_empty(1, embedding.shape[1])
        token_kernels.begin_kernel[(1,)](
            newest,
            chosen,
            embedding,
            cache.inputs,
            cache.orders,
            x,
            x.shape[1],
            BLOCK=_power_of_two(x.shape[1]),
            EARLY=False,  # nothing stands before it
            num_warps=4,
        )
        return x

    def queries(self, layer: int, x: Tensor) -> Tensor:
        part = self._weights.layers[layer]
        if len(x) == 1 and part.query_norm is None:
            return self._fused_queries(layer, x)

        # Norms of queries and keys need whole heads, which the fused kernel does not see.
        if len(x) == 1:
            qkv = self._gemv(x, part.qkv, self.tuning.qkv, norm=part.norm1)
        else:
            qkv = functional.linear(self.norm(x, part.norm1), part.qkv, part.qkv_bias)
        return self._rotate_and_write(layer, qkv)

    def _fused_queries(self, layer: int, x: Tensor) -> Tensor:
        weights, cache, shape = self._weights, self._cache, self.tuning.qkv
        part = weights.layers[layer]
        half, k = weights.head_dim // 2, x.shape[1]
        pairs = min(shape.block_n, half)

        # Keys that no rotation touches have no birth apart from the cache.
        queries = x.new_empty(1, weights.heads, weights.head_dim)
        birth = cache.birth[cache.birth_index[layer]] if part.rotated else cache.keys[layer]

        # One program for some pairs of outputs of a head; a pointer that is not read may be any.
        token_kernels.queries_kernel[(weights.heads + 2 * weights.kv_heads, half // pairs)](
            x,
            part.norm1,
            part.qkv,
            part.qkv if part.qkv_bias is None else part.qkv_bias,
            self._cos,
            self._sin,
            self._slots,
            queries,
            cache.keys[layer],
            cache.values[layer],
            birth,
            k,
            cache.keys.shape[2],
            weights.eps,
            HEADS=weights.heads,
            KV_HEADS=weights.kv_heads,
            HALF=half,
            BIAS=part.qkv_bias is not None,
            ROTATED=part.rotated,
            PAIRS=pairs,
            BLOCK_K=min(shape.block_k, _power_of_two(k)),
            BLOCK_X=_power_of_two(k),
            num_warps=shape.warps,
            **self._launch,
        )
        return queries

    def _rotate_and_write(self, layer: int, qkv: Tensor) -> Tensor:
        weights, cache = self._weights, self._cache
        part = weights.layers[layer]
        rows, heads, kv_heads = len(qkv), weights.heads, weights.kv_heads

        # Keys that no rotation touches have no birth apart from the cache.
        queries = qkv.new_empty(rows, heads, weights.head_dim)
        birth = cache.birth[cache.birth_index[layer]] if part.rotated else cache.keys[layer]
        normed = part.query_norm is not None

        # One program a head of a row: queries, keys, values.
        kernels.rotate_write_kernel[(rows, heads + 2 * kv_heads)](
            qkv,
            part.query_norm if normed else qkv,
            part.key_norm if normed else qkv,
            self._cos,
            self._sin,
            self._slots,
            queries,
            cache.keys[layer],
            cache.values[layer],
            birth,
            cache.keys.shape[2],
            weights.eps,
            HEADS=heads,
            KV_HEADS=kv_heads,
            HALF=weights.head_dim // 2,
            NORMED=normed,
            ROTATED=part.rotated,
            num_warps=1,
            **self._launch,
        )
        return queries

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        weights, cache = self._weights, self._cache
        rows, heads, dim = queries.shape
        group = heads // weights.kv_heads
        shape = self.tuning.token_attend if rows == 1 else self.tuning.rows_attend
        block_m = max(shape.block_m, _power_of_two(group)) if rows == 1 else shape.block_m
        tiles = -(-rows * group // block_m)

        # As many splits of the slots as fill the multiprocessors.
        splits = max(1, shape.programs // (weights.kv_heads * tiles))
        splits = _power_of_two(min(splits, cache.attended // shape.block_s or 1))
        split_len = -(-cache.attended // (splits * shape.block_s)) * shape.block_s

        # Each split gives its unnormalized sum, its peak and its mass.
        partial = torch.empty(splits, rows, heads, dim, device=queries.device)
        peak = torch.empty(splits, rows, heads, device=queries.device)
        mass = torch.empty_like(peak)
        kernels.attend_kernel[(tiles, weights.kv_heads, splits)](
            queries,
            cache.keys[layer],
            cache.values[layer],
            cache.orders,
            self._orders,
            partial,
            peak,
            mass,
            rows,
            cache.keys.shape[2],
            cache.attended,
            split_len,
            self._scale_log2,
            HEADS=heads,
            KV_HEADS=weights.kv_heads,
            DIM=dim,
            BLOCK_M=block_m,
            BLOCK_S=shape.block_s,
            PRECISION=self._precision,
            num_warps=shape.warps,
            **self._launch,
        )

        # The splits of one row and head are joined.
        out = queries.new_empty(rows, heads * dim)
        kernels.combine_kernel[(rows * heads,)](
            partial,
            peak,
            mass,
            out,
            rows * heads,
            SPLITS=splits,
            DIM=dim,
            num_warps=4,
            **self._launch,
        )
        return out

    def gated(self, x: Tensor, norm: Tensor, gate_up: Tensor) -> Tensor:
        if len(x) == 1:
            return self._gemv(x, gate_up, self.tuning.gate_up, norm=norm, gated=True)
        both = functional.linear(self.norm(x, norm), gate_up)
        out = both.new_empty(len(both), both.shape[1] // 2)
        grid = (len(both), -(-out.shape[1] // 1024))
        kernels.gated_kernel[grid](both, out, out.shape[1], BLOCK=1024, num_warps=4)
        return out

    def linear_add(self, x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        if len(x) > 1:
            return residual.addmm_(x, weight.t())  # in place: no copy of the residual
        shape = self.tuning.down if x.shape[1] > residual.shape[1] else self.tuning.out
        return self._gemv(x, weight, shape, residual=residual)

    def norm(self, x: Tensor, norm: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        block = _power_of_two(x.shape[1])
        kernels.norm_kernel[(len(x),)](
            x, norm, out, x.shape[1], self._weights.eps, BLOCK=block, num_warps=4, **self._launch
        )
        return out

    def head(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Logits F32[r, V] of normed rows [r, d]; of one row into ``out``, if given."""
        weight = self._weights.head
        if len(hidden) == 1:
            out = torch.empty(1, len(weight), device=hidden.device) if out is None else out
            return self._gemv(hidden, weight, self.tuning.head, out=out)
        return functional.linear(hidden, weight).float()

    def choose(self, logits: Tensor, chosen: Tensor, choice: Tensor) -> None:
        """Write the likeliest token of ``logits`` F32[1, V] to ``chosen`` I64[1], and it and its
        NLL in nats to ``choice`` F32[2]."""
        count = logits.shape[1]
        parts = -(-count // _CHOICE_BLOCK)
        peak, mass = torch.empty(2, parts, device=logits.device)
        best = torch.empty(parts, dtype=torch.int32, device=logits.device)
        token_kernels.choose_kernel[(parts,)](
            logits, peak, mass, best, count, BLOCK=_CHOICE_BLOCK, num_warps=4, **self._launch
        )
        token_kernels.join_choice_kernel[(1,)](
            peak,
            mass,
            best,
            chosen,
            choice,
            parts,
            BLOCK=_power_of_two(parts),
            num_warps=1,
            **self._launch,
        )

    def _gemv(
        self,
        x: Tensor,
        weight: Tensor,
        shape: GemvShape,
        *,
        norm: Tensor | None = None,
        residual: Tensor | None = None,
        gated: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        n, k = weight.shape[0] // (2 if gated else 1), weight.shape[1]
        out = x.new_empty(1, n) if out is None else out

        # A pointer that the kernel is told not to read may be any.
        kernels.gemv_kernel[(-(-n // shape.block_n),)](
            x,
            x if norm is None else norm,
            weight,
            x if residual is None else residual,
            out,
            n,
            k,
            self._weights.eps,
            NORM=norm is not None,
            GATED=gated,
            RESIDUAL=residual is not None,
            BLOCK_N=shape.block_n,
            BLOCK_K=min(shape.block_k, _power_of_two(k)),
            BLOCK_X=_power_of_two(k),
            num_warps=shape.warps,
            **self._launch,
        )
        return out


def triton_move(cache: SlottedCache, slots: NDArray[np.int64], delta: NDArray[np.int64]) -> None:
    """Move the keys in ``slots`` by ``delta`` positions from their birth, all layers at once."""
    stored = cache.keys.shape[2]

    # Which slots move, and by how many positions, in one copy to the GPU.
    table = np.zeros((2, stored), dtype=np.int64)
    table[0, slots] = delta
    table[1, slots] = 1
    on_device = torch.from_numpy(table).to(cache.device, non_blocking=True)
    angle = on_device[0, :, None].double() * cache.rotary.inv_freq.double()

    # One launch for all layers and heads.
    layers = cache.rotated
    heads = cache.keys.shape[1]
    kernels.move_kernel[(len(layers) * heads, stored // 32)](
        cache.birth,
        cache.keys,
        layers,
        angle.cos().float(),
        angle.sin().float(),
        on_device[1],
        stored,
        KV_HEADS=heads,
        HALF=cache.keys.shape[3] // 2,
        BLOCK_S=32,
        num_warps=4,
    )


def _power_of_two(value: int) -> int:
    """The smallest power of two of at least ``value``."""
    return 1 << (value - 1).bit_length()
