"""Choosing the next token: greedy, temperature, top-k, top-p."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megacontext.core.rng import generator
from megacontext.traces.errors import ConfigError

__all__ = ["Sampler"]


@dataclass(frozen=True)
class Sampler:
    """Draws tokens from logits; the draw is a function of (seed, position, logits) alone.

    ``temperature`` 0 is greedy (ties go to the lowest id). ``top_k`` 0 and ``top_p`` 1 keep every
    token; ``top_p`` keeps the smallest set of likeliest tokens that holds that mass (Holtzman et
    al., 2020).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ConfigError(f"sampling.temperature is {self.temperature}, use 0 (greedy) or more")
        if self.top_k < 0:
            raise ConfigError(f"sampling.top_k is {self.top_k}, use 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"sampling.top_p is {self.top_p}, use a value in (0, 1]")

    @property
    def greedy(self) -> bool:
        """Whether every token is the likeliest one."""
        return self.temperature == 0

    def sample(self, logits: Tensor, position: int) -> int:
        """The token for history position ``position`` from its logits F32[V]."""
        if self.greedy:
            return int(logits.argmax())
        kept = min(self.top_k or len(logits), len(logits))
        values, ids = logits.double().topk(kept)  # sorted, so the likeliest come first
        probabilities = (values / self.temperature).softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = torch.where(before < self.top_p, probabilities, 0.0)
        cumulative = probabilities.cumsum(-1)
        draw = generator(self.seed, "sampling", position).random()
        at = torch.searchsorted(cumulative, cumulative[-1] * draw, right=True)
        return int(ids[torch.clamp(at, max=int((probabilities > 0).sum()) - 1)])
