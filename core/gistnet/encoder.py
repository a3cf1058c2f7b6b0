"""A small bidirectional transformer in the shape of the base model's own layers.

Shapes: N sequences, T positions, D width, H query heads, G key/value heads, E head width.
The parameters carry the names of Hugging Face's Llama layers, so that the lower layers of a
Llama-shaped base model can be copied in as a start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.traces.errors import ConfigError, ModelError

__all__ = ["Encoder", "EncoderShape", "copy_base_layers", "rms_normalized"]

_NAMES = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_attention_layernorm",
}


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of an encoder; ``dim`` splits into ``heads`` of even width.

    Raises:
        ConfigError: the heads do not divide the width or one another.
    """

    dim: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ConfigError(
                f"heads: {self.heads} does not split the width {self.dim} into heads of even"
                " width; choose a divisor of half the width."
            )
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"kv_heads: {self.kv_heads} does not divide heads {self.heads}; choose a divisor."
            )
        if self.layers < 0:
            raise ConfigError(f"layers: {self.layers} is negative; use 0 for a bag of words.")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


def rms_normalized(x: Tensor, eps: float = 1e-12) -> Tensor:
    """``x`` [..., D] with root mean square 1 along D, computed in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class _Norm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
        return out


def _rotate(x: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos_TE + turned * sin_TE


class _Layer(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        dim, kv = shape.dim, shape.kv_heads * shape.head_dim
        self.shape = shape
        self.input_layernorm = _Norm(dim, shape.norm_eps)
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, kv, bias=False)
        self.v_proj = nn.Linear(dim, kv, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.post_attention_layernorm = _Norm(dim, shape.norm_eps)
        self.gate_proj = nn.Linear(dim, shape.ffn, bias=False)
        self.up_proj = nn.Linear(dim, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, dim, bias=False)

    def forward(self, x_NTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        shape = self.shape
        rows, length, _ = x_NTD.shape
        h_NTD = self.input_layernorm(x_NTD)

        def heads(projection: nn.Linear, count: int) -> Tensor:
            wide: Tensor = projection(h_NTD).view(rows, length, count, shape.head_dim)
            return wide.transpose(1, 2)

        q_NHTE = _rotate(heads(self.q_proj, shape.heads), cos_TE, sin_TE)
        k_NGTE = _rotate(heads(self.k_proj, shape.kv_heads), cos_TE, sin_TE)
        v_NGTE = heads(self.v_proj, shape.kv_heads)
        groups = shape.heads // shape.kv_heads
        out_NHTE = functional.scaled_dot_product_attention(
            q_NHTE,
            k_NGTE.repeat_interleave(groups, dim=1),
            v_NGTE.repeat_interleave(groups, dim=1),
        )
        x_NTD = x_NTD + self.o_proj(out_NHTE.transpose(1, 2).reshape(rows, length, shape.dim))
        h_NTD = self.post_attention_layernorm(x_NTD)
        inner = functional.silu(self.gate_proj(h_NTD)) * self.up_proj(h_NTD)
        out: Tensor = x_NTD + self.down_proj(inner)
        return out


class Encoder(nn.Module):
    """Every position sees every other: [N, T, D] to [N, T, D], normed."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.norm = _Norm(shape.dim, shape.norm_eps)

    def init_weights(self, source: torch.Generator) -> None:
        """Matrices normal with std 1/sqrt(fan-in), residual outputs smaller by the depth."""
        depth = max(1, 2 * self.shape.layers) ** -0.5
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim < 2:
                    continue
                residual = name.split(".")[-2] in ("o_proj", "down_proj")
                std = parameter.shape[1] ** -0.5 * (depth if residual else 1.0)
                parameter.copy_(torch.randn(parameter.shape, generator=source) * std)

    def forward(self, x_NTD: Tensor) -> Tensor:
        shape = self.shape
        exponent = torch.arange(0, shape.head_dim, 2, device=x_NTD.device) / shape.head_dim
        place = torch.arange(x_NTD.shape[1], device=x_NTD.device, dtype=torch.float32)
        angles = place[:, None] / shape.rope_theta ** exponent[None]
        angles = torch.cat((angles, angles), dim=-1)
        cos_TE, sin_TE = angles.cos().to(x_NTD.dtype), angles.sin().to(x_NTD.dtype)
        for layer in self.layers:
            x_NTD = layer(x_NTD, cos_TE, sin_TE)
        normed: Tensor = self.norm(x_NTD)
        return normed


_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(.+)$")


def copy_base_layers(encoder: Encoder, state: Mapping[str, Tensor]) -> None:
    """Start ``encoder`` from the lower layers of a Llama-shaped base model.

    Args:
        state: the base model's ``state_dict``.

    Raises:
        ModelError: the base has no layers of this name and shape.
    """
    by_layer: dict[tuple[int, str], Tensor] = {}
    for name, value in state.items():
        match = _LAYER.search(name)
        if match:
            by_layer[int(match.group(1)), match.group(2)] = value
    with torch.no_grad():
        for number, layer in enumerate(encoder.layers):
            for own, theirs in _NAMES.items():
                parameter = layer.get_submodule(own).weight
                assert isinstance(parameter, nn.Parameter)
                base = by_layer.get((number, f"{theirs}.weight"))
                if base is None or base.shape != parameter.shape:
                    found = "nothing" if base is None else str(tuple(base.shape))
                    raise ModelError(
                        f"init from base layers: layers.{number}.{theirs} should be"
                        f" {tuple(parameter.shape)} and the base has {found}; use the base's"
                        " widths or init: random."
                    )
                parameter.copy_(base)
