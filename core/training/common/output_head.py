"""From last hidden states to logits, as the architectures do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.model.base import BaseModel

__all__ = ["HeadMath"]

# Configuration keys that multiply or divide the logits (Granite; Cohere; Falcon-H1, MiniCPM).
_MULTIPLY = ("logit_scale", "lm_head_multiplier")
_DIVIDE = ("logits_scaling",)
_CAP = "final_logit_softcapping"


@dataclass(frozen=True)
class HeadMath:
    """``weight`` [V, d], ``bias`` [V] or None, then a factor, then a soft cap (Gemma)."""

    weight: Tensor
    bias: Tensor | None
    factor: float
    cap: float | None

    @classmethod
    def of(cls, base: BaseModel) -> Self:
        """The head of a model; the caller checks that it is all that the model does."""
        head: Any = base.module.get_output_embeddings()
        factor = 1.0
        for key in _MULTIPLY:
            factor *= float(getattr(base.config, key, None) or 1.0)
        for key in _DIVIDE:
            factor /= float(getattr(base.config, key, None) or 1.0)
        cap = getattr(base.config, _CAP, None)
        return cls(head.weight, getattr(head, "bias", None), factor, float(cap) if cap else None)

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 logits [..., V] of hidden states [..., d]."""
        logits = functional.linear(hidden, self.weight, self.bias).float() * self.factor
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)
