"""Decoding for Llama-type models without the transformers forward.

The step is written out over the weights of the module: five operations a layer. On a CPU they are
plain PyTorch; on a GPU Triton kernels replayed as one CUDA graph per batch size.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from megacontext.core.model.base import BaseModel, Forward
from megacontext.core.model.llama_weights import LlamaLayer, llama_weights
from megacontext.core.model.runner import MAX_ROWS
from megacontext.core.model.slotted_cache import SlottedCache
from megacontext.core.model.torch_ops import LayerOps, TorchOps

__all__ = ["LlamaRunner", "llama_layers"]


def llama_layers(ops: LayerOps, x: Tensor, layers: tuple[LlamaLayer, ...]) -> Tensor:
    """All layers over rows x [r, d]; the residual stream [r, d] before the final norm."""
    for number, layer in enumerate(layers):
        x = ops.linear_add(ops.attend(number, ops.queries(number, x)), layer.out, x)
        x = ops.linear_add(ops.gated(x, layer.norm2, layer.gate_up), layer.down, x)
    return x


class LlamaRunner:
    """Rows of a Llama-type model in plain PyTorch."""

    max_rows = MAX_ROWS

    def __init__(self, base: BaseModel, cache: SlottedCache) -> None:
        self.base = base
        self.cache = cache
        self.weights = llama_weights(base, cache.rotary.layers)
        self._ops = TorchOps(self.weights, cache)

    def run(
        self,
        slots: NDArray[np.int64],
        orders: NDArray[np.int64],
        positions: NDArray[np.int64],
        keep: int,
    ) -> Forward:
        device = self.cache.device
        self.cache.born(slots, positions)
        at = torch.from_numpy(slots).to(device)
        order = torch.from_numpy(orders).to(device)
        self._ops.begin(at, order, torch.from_numpy(positions).to(device))
        x = llama_layers(self._ops, self.cache.inputs[at], self.weights.layers)
        hidden = self._ops.norm(x[-keep:], self.weights.norm)
        return Forward(functional.linear(hidden, self.weights.head).float(), hidden)

    def run_token(self, token: int, slot: int, order: int, position: int) -> Forward:
        self.cache.inputs[slot] = self.weights.embedding[token]
        return self.run(np.array([slot]), np.array([order]), np.array([position]), keep=1)

    def describe(self) -> str:
        return "own Llama step in plain PyTorch"
