"""Matrix products in bfloat16 for CPUs that have units for them; all else stays in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.core.gistnet.encoder import Encoder

__all__ = ["HalfLinear", "halve_products", "has_matrix_units"]


def has_matrix_units() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in tiles (AMX)."""
    supported: bool = torch.cpu._is_amx_tile_supported()
    return supported


class HalfLinear(nn.Module):
    """A linear map without bias whose product is taken in bfloat16; its output is as its input.

    The residual stream keeps its precision, so that errors do not add up from layer to layer.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.to(torch.bfloat16), self.weight).to(x.dtype)


def halve_products(encoder: Encoder) -> None:
    """Let every matrix of ``encoder``'s layers multiply in bfloat16, for inference."""
    for layer in encoder.layers:
        for name, part in layer.named_children():
            if isinstance(part, nn.Linear):
                setattr(layer, name, HalfLinear(part.weight))
