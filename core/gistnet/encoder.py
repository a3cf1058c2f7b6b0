"""A small bidirectional transformer in the shape of the base model's own layers.

Shapes: N sequences, T positions, D width, H query heads, G key/value heads, E head width.
The parameters carry the names of Hugging Face's Llama layers, so that the lower layers of a
Llama-shaped base model can be copied in as a start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

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
        if x.device.type == "cpu" and x.dtype == torch.float32:
            # The same values; torch's own takes twice the time there.
            scale = x.square().mean(-1, keepdim=True).add_(self.eps).rsqrt_()
            return (x * scale).mul_(self.weight)
        out: Tensor = functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
        return out


def _rotate(x: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    return (x * cos_TE).add_(x.roll(x.shape[-1] // 2, -1).mul_(sin_TE))


def _angles(
    width: int, theta: float, length: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines [T, E] of every position."""
    exponent = torch.arange(0, width, 2, device=device) / width
    position = torch.arange(length, device=device, dtype=torch.float32)
    angles = position[:, None] / theta ** exponent[None]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


@lru_cache(maxsize=16)
def _cached_angles(
    width: int, theta: float, length: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # training may want the same ones
        return _angles(width, theta, length, torch.device("cpu"), dtype)


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

    def forward(self, x_NTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, newest: int) -> Tensor:
        """The newest ``newest`` states [N, own, D]; every position is read all the same."""
        shape = self.shape
        h_NTD = self.input_layernorm(x_NTD)
        x_NTD, queries_NTD = x_NTD[:, -newest:], h_NTD[:, -newest:]

        def heads(projection: nn.Linear, of_NTD: Tensor, count: int) -> Tensor:
            wide: Tensor = projection(of_NTD.flatten(0, 1))  # a sliced batch would be a slow bmm
            return wide.view(*of_NTD.shape[:2], count, shape.head_dim).transpose(1, 2)

        q_NHTE = _rotate(
            heads(self.q_proj, queries_NTD, shape.heads), cos_TE[-newest:], sin_TE[-newest:]
        )
        k_NGTE = _rotate(heads(self.k_proj, h_NTD, shape.kv_heads), cos_TE, sin_TE)
        v_NGTE = heads(self.v_proj, h_NTD, shape.kv_heads)
        # The heads of a group ask side by side, so that no key or value is repeated.
        side = shape.heads // shape.kv_heads * x_NTD.shape[1]
        q_NGSE = q_NHTE.reshape(len(x_NTD), shape.kv_heads, side, shape.head_dim)
        out_NGSE = functional.scaled_dot_product_attention(q_NGSE, k_NGTE, v_NGTE)
        out_NHTE = out_NGSE.reshape(q_NHTE.shape)
        x_NTD = x_NTD + self.o_proj(out_NHTE.transpose(1, 2).flatten(2))
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

    def forward(self, x_NTD: Tensor, newest: int | None = None) -> Tensor:
        """Normed states of the newest ``newest`` positions [N, own, D], of all by default."""
        length = x_NTD.shape[1]
        keep = length if newest is None else min(newest, length)
        cos_TE, sin_TE = self._angles(length, x_NTD)
        for layer in self.layers:
            last = layer is self.layers[-1]  # whose other states nobody reads
            x_NTD = layer(x_NTD, cos_TE, sin_TE, keep if last else length)
        normalized: Tensor = self.norm(x_NTD[:, -keep:])
        return normalized

    def _angles(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        width, theta = self.shape.head_dim, self.shape.rope_theta
        if like.device.type == "cpu":
            return _cached_angles(width, theta, length, like.dtype)
        return _angles(width, theta, length, like.device, like.dtype)


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
            for name_here, base_name in _NAMES.items():
                parameter = layer.get_submodule(name_here).weight
                assert isinstance(parameter, nn.Parameter)
                base = by_layer.get((number, f"{base_name}.weight"))
                if base is None or base.shape != parameter.shape:
                    base_shape = "nothing" if base is None else str(tuple(base.shape))
                    raise ModelError(
                        f"init from base layers: layers.{number}.{base_name} should be"
                        f" {tuple(parameter.shape)} and the base has {base_shape}; use the base's"
                        " widths or init: random."
                    )
                parameter.copy_(base)
