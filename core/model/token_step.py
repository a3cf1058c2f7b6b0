"""The step of one row as kernels: from a token to the likeliest next one, all on the device.

The host sends one small copy before a step, *newest*: int32 ``[token, slot, order, 0]``, then the
cosines and sines of the row's position, float32 [D / 2] each. Where its token is below 0, the step
reads the token that the step before has chosen, so the host need not know it yet.
"""

from __future__ import annotations

import numpy as np
import torch

from megacontext.core.model.fast_llama import llama_layers
from megacontext.core.model.llama_weights import LlamaWeights
from megacontext.core.model.slotted_cache import DEAD, SlottedCache
from megacontext.core.model.triton_ops import TritonOps

__all__ = ["TokenStep"]

_TURN = 4
"""Where the cosines begin in what the host sends."""


class TokenStep:
    """Tensors at fixed addresses, so that the step can be a CUDA graph.

    Attributes:
        chosen: int64 [1], the likeliest token after the step.
        choice: float32 [2], the same and its NLL in nats, for the host.
        logits: float32 [1, V]. hidden: [1, d], normed.
    """

    def __init__(self, weights: LlamaWeights, cache: SlottedCache) -> None:
        device, half = cache.device, weights.head_dim // 2
        self._weights = weights
        self._frequencies = cache.rotary.inv_freq.cpu().numpy()
        self._newest = torch.zeros(_TURN + 2 * half, dtype=torch.int32, device=device)
        self._newest[1] = cache.scratch
        self._newest[2] = DEAD
        self.chosen = torch.zeros(1, dtype=torch.int64, device=device)
        self.choice = torch.zeros(2, device=device)
        self.logits = torch.empty(1, len(weights.head), device=device)
        self.hidden = torch.empty(1, weights.embedding.shape[1], device=device, dtype=cache.dtype)

    def send(self, token: int | None, slot: int, order: int, position: int) -> None:
        """Say what the next step computes; ``token`` None: what the step before chose."""
        newest = np.zeros(len(self._newest), np.int32)
        newest[:3] = -1 if token is None else token, slot, order
        angle = np.float32(position) * self._frequencies
        turn = np.concatenate([np.cos(angle), np.sin(angle)]) * self._weights.attention_scaling
        newest[_TURN : _TURN + len(turn)] = turn.astype(np.float32).view(np.int32)
        self._newest.copy_(torch.from_numpy(newest), non_blocking=True)

    def compute(self, ops: TritonOps) -> None:
        """The step itself: launches only, nothing waits."""
        x = ops.begin_token(self._newest, self._newest[_TURN:].view(torch.float32), self.chosen)
        x = llama_layers(ops, x, self._weights.layers)
        ops.norm(x, self._weights.norm, out=self.hidden)
        ops.head(self.hidden, out=self.logits)
        self.choose(ops, self.logits)

    def choose(self, ops: TritonOps, logits: torch.Tensor) -> None:
        """Choose behind ``logits`` F32[1, V] of another step than this."""
        ops.choose(logits, self.chosen, self.choice)
