"""What the frozen base model needs of a history: attention by block, and measured NLL.

Shapes: R rows, T tokens, H heads, E head width, B blocks, C candidates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.training.gistnet_base import FrozenBase
from megacontext.traces.errors import ModelError

__all__ = ["AttentionProbe", "token_nll", "window_nll"]

_SINK = 4  # first tokens of a window draw attention whatever they say (Xiao et al. 2023)


class AttentionProbe:
    """Attention mass that the last tokens of a row pay to each block, over all layers and heads.

    Works on models whose layers have Llama's projections (``q_proj``, ``k_proj``, rotary
    position embeddings handed to the attention module).

    Raises:
        ModelError: another kind of attention.
    """

    def __init__(self, base: FrozenBase) -> None:
        self._base = base
        self._modules: list[Any] = [m for m in base.module.modules() if hasattr(m, "q_proj")]
        if not self._modules or not all(hasattr(m, "k_proj") for m in self._modules):
            raise ModelError(
                f"model '{base.base.name}' has no Llama-like attention; train LensNet on it with"
                " states.far_share 1."
            )

    @torch.no_grad()
    def demand(self, tokens_RT: Tensor, horizon: int, block_size: int) -> tuple[Tensor, Tensor]:
        """(mass [R, B] per block of the history, hidden states [R, T, D]).

        The history is all but the last ``horizon`` tokens; the mass of its first tokens is left
        out, and masses are shares of what is left.
        """
        seen: list[Tensor] = []
        handles = [
            m.register_forward_pre_hook(self._catch(seen, horizon), with_kwargs=True)
            for m in self._modules
        ]
        try:
            hidden = self._base.hidden(self._base.embed(tokens_RT))
        finally:
            for handle in handles:
                handle.remove()
        history = tokens_RT.shape[1] - horizon
        mass_RT = torch.stack(seen).mean(0)[:, :history]
        mass_RT[:, :_SINK] = 0
        mass_RB = mass_RT.view(len(tokens_RT), -1, block_size).sum(-1)
        return mass_RB / mass_RB.sum(1, keepdim=True).clamp(min=1e-9), hidden

    def _catch(self, seen: list[Tensor], horizon: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            cos, sin = kwargs["position_embeddings"]
            seen.append(_mass(module, hidden, cos, sin, horizon))

        return hook


def _mass(module: Any, hidden: Tensor, cos: Tensor, sin: Tensor, horizon: int) -> Tensor:
    """Attention [R, T] of the last ``horizon`` tokens in one layer, mean over heads and tokens."""
    rows, length, _ = hidden.shape
    width = module.head_dim
    q = module.q_proj(hidden[:, -horizon:]).view(rows, horizon, -1, width)
    k = module.k_proj(hidden).view(rows, length, -1, width)
    if hasattr(module, "q_norm"):
        q, k = module.q_norm(q), module.k_norm(k)
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    if getattr(module, "use_rope", True):  # SmolLM3: every fourth layer knows no positions
        cos, sin = cos[:, None], sin[:, None]
        q = q * cos[..., -horizon:, :] + _turned(q) * sin[..., -horizon:, :]
        k = k * cos + _turned(k) * sin
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    logits = (q @ k.transpose(-1, -2)).float() * module.scaling
    places = torch.arange(length, device=hidden.device)
    late = places[None] > places[-horizon:, None]
    mass: Tensor = logits.masked_fill(late, -1e9).softmax(-1).mean((1, 2))
    return mass


def _turned(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


@torch.no_grad()
def token_nll(
    base: FrozenBase, hidden_RTD: Tensor, tokens_RT: Tensor, rows_at_once: int = 4
) -> Tensor:
    """NLL [R, T] in nats of each token under the text before it; 0 for the first of a row."""
    costs = []
    for start in range(0, len(tokens_RT), rows_at_once):
        part = slice(start, start + rows_at_once)
        logits = base.logits(hidden_RTD[part, :-1])
        answer = tokens_RT[part, 1:].long()
        nll = functional.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="none")
        costs.append(functional.pad(nll.view(answer.shape), (1, 0)))
    return torch.cat(costs)


@torch.no_grad()
def window_nll(
    base: FrozenBase,
    table_RXD: Tensor,
    windows_RCL: Tensor,
    lengths_RC: Tensor,
    answer_RH: Tensor,
    rows_at_once: int = 96,
) -> Tensor:
    """Mean NLL [R, C] in nats of the last H tokens of each window.

    Args:
        table_RXD: embeddings that ``windows_RCL`` picks from.
        windows_RCL: right-padded to one length; padding comes last and is never seen.
        answer_RH: the tokens that the windows end with.
    """
    rows, count, _ = windows_RCL.shape
    horizon = answer_RH.shape[1]
    longest = int(lengths_RC.max())
    flat = windows_RCL[..., :longest].flatten(0, 1)
    owner = torch.arange(rows, device=flat.device).repeat_interleave(count)
    ends = lengths_RC.flatten()
    places = ends[:, None] - horizon - 1 + torch.arange(horizon, device=flat.device)
    costs = []
    for start in range(0, len(flat), rows_at_once):
        part = slice(start, start + rows_at_once)
        x = table_RXD[owner[part][:, None], flat[part]]
        logits = base.logits_at(x, places[part])
        answer = answer_RH[owner[part]].long()
        nll = functional.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="none")
        costs.append(nll.view(-1, horizon).mean(1))
    return torch.cat(costs).view(rows, count)
