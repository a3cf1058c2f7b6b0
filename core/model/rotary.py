"""How each layer's cached keys depend on positions, found by probing the model itself.

A layer is spliceable if a cached key can be moved to another position without recomputing it:
its keys are either independent of positions (NoPE) or rotated by them (RoPE of any kind whose
inverse frequencies are fixed, with or without attention scaling, on all or the first dimensions).
The probe runs a few copies of one random row, each seeing only itself, at different positions;
with learned absolute positions the keys differ in a way that no rotation explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from megacontext.core.model.base import BaseModel

__all__ = [
    "RotaryLayers",
    "probe_rotary",
    "rotate_half",
    "rotate_keys",
    "rotation",
    "turn_into",
    "turned",
]

_PROBE_POSITIONS = (0, 1, 37, 509)  # the last turns slow dimensions, yet is exact in float32
_TOLERANCE = {True: 1e-4, False: 2e-2}  # relative, by whether the model is in float32
_CHANGING = ("dynamic",)  # longrope changes beyond the window only


@dataclass(frozen=True)
class RotaryLayers:
    """``layers``: indices of layers whose keys are rotated, all by ``inv_freq`` F32[half].

    ``reason`` is None when every layer is spliceable, else one clause that says why not.
    """

    layers: tuple[int, ...]
    inv_freq: Tensor
    reason: str | None


def rotate_half(x: Tensor) -> Tensor:
    """(-x2, x1) for the two halves of the last dimension."""
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def rotation(delta: Tensor, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines F32[s, W] that move keys by ``delta`` I64[s] positions.

    Angles in float64, one for each distinct delta: rows that were computed together move together.
    """
    distinct, position = torch.unique(delta, return_inverse=True)
    angle = distinct[:, None].double() * inv_freq.double()
    cos, sin = angle.cos().float(), angle.sin().float()
    return torch.cat((cos, cos), dim=-1)[position], torch.cat((-sin, sin), dim=-1)[position]


def turned(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Keys [..., s, D] under a :func:`rotation`; computed in float32.

    Only the first W dimensions rotate. The attention scaling that some RoPE kinds multiply into
    cosine and sine is already in the keys and stays as it is.
    """
    width = cos.shape[-1]
    turning = keys[..., :width].float()
    # Rolled by half, and the signs are in the sines: rotate_half without its copies.
    moved = (turning * cos).add_(turning.roll(width // 2, -1).mul_(sin)).to(keys.dtype)
    if width == keys.shape[-1]:
        return moved
    return torch.cat((moved, keys[..., width:]), dim=-1)


def turn_into(target: Tensor, born: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Write keys ``born`` [..., s, D] under a :func:`rotation` to ``target`` [..., s, D].

    The same values as :func:`turned`, in fewer passes over memory. What does not rotate is the
    same in both already.
    """
    width = cos.shape[-1]
    half = width // 2
    turning, part = born[..., :width].float(), target[..., :width]
    # Products in float32 go straight to where they belong.
    moved = part if part.dtype == torch.float32 else torch.empty_like(turning)
    torch.mul(turning, cos, out=moved)
    across = torch.mul(turning[..., half:], sin[:, :half])
    moved[..., :half].add_(across)
    moved[..., half:].add_(torch.mul(turning[..., :half], sin[:, half:], out=across))
    if moved is not part:
        part.copy_(moved)


def rotate_keys(keys: Tensor, delta: Tensor, inv_freq: Tensor) -> Tensor:
    """Keys [..., s, D] moved by ``delta`` I64[s] positions."""
    return turned(keys, *rotation(delta, inv_freq))


@torch.no_grad()
def probe_rotary(base: BaseModel) -> RotaryLayers:
    """Find out which layers rotate their keys, and whether all layers are spliceable."""
    candidates = _inverse_frequencies(base.module)
    none = torch.zeros(0, device=base.device)
    changing = _changing_rope(base.config)
    if changing is not None:
        return RotaryLayers((), none, f"its '{changing}' rope changes with the length")
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(base.dim, generator=generator).to(base.device, base.dtype)
    row = row * base.embedding_matrix.float().std().to(base.dtype)
    count, tolerance = len(_PROBE_POSITIONS), _TOLERANCE[base.dtype == torch.float32]
    positions = torch.tensor(_PROBE_POSITIONS, device=base.device).clamp(max=base.window - 1)
    mask = torch.eye(count, dtype=torch.bool, device=base.device)
    cache = DynamicCache()
    base.forward_rows(row.expand(count, -1), positions, mask, cache, keep=1)
    rotated: list[int] = []
    used: Tensor | None = None
    for number, layer in enumerate(cache.layers):
        keys, values = layer.keys[0].float(), layer.values[0].float()
        still = _error(keys, keys[:, :1].expand_as(keys))
        moved, matching = _best_match(keys, positions, candidates)
        if min(still, moved) > tolerance:
            reason = f"layer {number} does not rotate its keys by position"
            return RotaryLayers((), none, reason)
        if _error(values, values[:, :1].expand_as(values)) > tolerance:
            return RotaryLayers((), none, f"what layer {number} caches as values has positions")
        # Where slow dimensions dominate, rotated keys hardly move: the better account is the
        # true one, however well the other fits.
        if still <= moved or matching is None:
            continue
        if used is not None and not torch.equal(used, matching):
            return RotaryLayers((), none, "its layers rotate by different frequencies")
        used = matching
        rotated.append(number)
    return RotaryLayers(tuple(rotated), none if used is None else used, None)


def _inverse_frequencies(module: Any) -> list[Tensor]:
    return [
        buffer.float()
        for name, buffer in module.named_buffers()
        if name.endswith("inv_freq") and "original" not in name
    ]


def _changing_rope(config: Any) -> str | None:
    parameters = getattr(config, "rope_parameters", None) or {}
    kind = parameters.get("rope_type") if isinstance(parameters, dict) else None
    return str(kind) if kind in _CHANGING else None


def _best_match(
    keys: Tensor, positions: Tensor, candidates: list[Tensor]
) -> tuple[float, Tensor | None]:
    """(error, frequencies) of the rotation that explains the keys best."""
    best, found = float("inf"), None
    for inv_freq in candidates:
        if 2 * len(inv_freq) > keys.shape[-1]:
            continue
        moved = rotate_keys(keys[:, :1].expand_as(keys).contiguous(), positions, inv_freq)
        error = _error(keys, moved)
        if error < best:
            best, found = error, inv_freq
    return best, found


def _error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-30))
