"""Weights of a Llama-type decoder, laid out for few kernels per layer.

Llama, Mistral, SmolLM3, Qwen2 and Qwen3 share one layer: RMSNorm, attention with grouped
key/value heads and rotary positions (SmolLM3: not in every layer; Qwen2: with biases of queries,
keys and values; Qwen3: with normed queries and keys), RMSNorm, gated SiLU MLP. The query, key and
value matrices become one matrix, as do gate and up; the module's own parameters turn into views of
them, so no weight is held twice and none changes its value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from megacontext.core.model.base import BaseModel

__all__ = ["LlamaLayer", "LlamaWeights", "llama_weights", "unsupported"]

_TYPES = ("llama", "mistral", "smollm3", "qwen2", "qwen3")


@dataclass(frozen=True)
class LlamaLayer:
    """One layer. Shapes: ``qkv`` [(Hq + 2H) * D, d], ``qkv_bias`` [(Hq + 2H) * D] or None, ``out``
    [d, Hq * D], ``gate_up`` [2f, d], ``down`` [d, f]; ``query_norm`` and ``key_norm`` [D] or None;
    ``rotated``: uses positions."""

    norm1: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    out: Tensor
    norm2: Tensor
    gate_up: Tensor
    down: Tensor
    rotated: bool


@dataclass(frozen=True)
class LlamaWeights:
    """All weights; ``heads`` Hq, ``kv_heads`` H, ``head_dim`` D, ``eps`` of every RMSNorm."""

    layers: tuple[LlamaLayer, ...]
    embedding: Tensor
    norm: Tensor
    head: Tensor
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    attention_scaling: float


_QKV = ("q_proj", "k_proj", "v_proj")

_FUSED: WeakKeyDictionary[nn.Module, tuple[LlamaLayer, ...]] = WeakKeyDictionary()


def unsupported(base: BaseModel) -> str | None:
    """Why the model is no Llama-type decoder that this code computes, or None."""
    config = base.config
    if config.model_type not in _TYPES:
        return f"'{config.model_type}' is none of {', '.join(_TYPES)}"
    if config.hidden_act != "silu":
        return f"activation '{config.hidden_act}' is not silu"
    if getattr(config, "pretraining_tp", 1) != 1:
        return "it is split for tensor parallelism"
    if base.local is not None:
        return f"it has {base.local.describe()}"
    layers = base.module.get_decoder().layers
    linears = [m for m in layers.modules() if hasattr(m, "in_features")]
    if any(type(linear) is not nn.Linear for linear in linears):
        return "its linear layers are wrapped or quantized"
    for name, part in layers.named_modules():
        of_qkv = name.endswith(_QKV) and config.model_type == "qwen2"
        if isinstance(part, nn.Linear) and (part.bias is not None) != of_qkv:
            return f"its layer {name.rpartition('.')[2]} has {'no' if of_qkv else 'a'} bias"
    return None


def llama_weights(base: BaseModel, rotated: tuple[int, ...]) -> LlamaWeights:
    """The model's weights; ``rotated`` are the layers that use rotary positions."""
    model = base.module.get_decoder()
    if base.module not in _FUSED:
        _FUSED[base.module] = tuple(
            _layer(layer, number in rotated) for number, layer in enumerate(model.layers)
        )
    _, kv_heads, head_dim = base.kv_shape
    return LlamaWeights(
        layers=_FUSED[base.module],
        embedding=base.embedding_matrix,
        norm=model.norm.weight,
        head=base.module.get_output_embeddings().weight,
        heads=int(base.config.num_attention_heads),
        kv_heads=kv_heads,
        head_dim=head_dim,
        eps=float(base.config.rms_norm_eps),
        attention_scaling=float(model.rotary_emb.attention_scaling),
    )


def _layer(layer: Any, rotated: bool) -> LlamaLayer:
    attention, mlp = layer.self_attn, layer.mlp
    normalized = hasattr(attention, "q_norm")
    qkv = [getattr(attention, name) for name in _QKV]
    return LlamaLayer(
        norm1=layer.input_layernorm.weight,
        qkv=_fuse(qkv, "weight"),
        qkv_bias=None if qkv[0].bias is None else _fuse(qkv, "bias"),
        query_norm=attention.q_norm.weight if normalized else None,
        key_norm=attention.k_norm.weight if normalized else None,
        out=attention.o_proj.weight,
        norm2=layer.post_attention_layernorm.weight,
        gate_up=_fuse([mlp.gate_proj, mlp.up_proj], "weight"),
        down=mlp.down_proj.weight,
        rotated=rotated,
    )


@torch.no_grad()
def _fuse(linears: list[nn.Linear], name: str) -> Tensor:
    """Parameter ``name`` of several linear layers as one tensor, of which theirs become views."""
    fused = torch.cat([getattr(linear, name) for linear in linears])
    parts = torch.split(fused, [linear.out_features for linear in linears])
    for linear, part in zip(linears, parts, strict=True):
        getattr(linear, name).data = part
    return fused
