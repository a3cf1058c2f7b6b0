"""Labels from the frozen base model: its demand for each block of a history, and measured NLL.

Shapes: R rows, T tokens, H heads, E head width, B blocks, C candidates.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.training.common.frozen_base import FrozenBase
from megacontext.traces.errors import ModelError

__all__ = [
    "AttentionDemand",
    "CopyDemand",
    "DemandEstimator",
    "GradientDemand",
    "TeacherKind",
    "make_demand_estimator",
    "token_nll",
    "window_nll",
]

TeacherKind = Literal["attention", "copies", "gradient"]

_SINK = 4  # the first tokens of a window attract attention whatever they are (Xiao et al. 2023)
_LOCAL_TOKENS = 64  # newest tokens, raw in every window: no block is needed for what they contain
_MIN_SAVED_NATS = 0.1  # a block that saves less is not worth its slot


class DemandEstimator(Protocol):
    """Estimates how much the coming tokens need each block of a history."""

    def demand(self, tokens_RT: Tensor, horizon: int, block_size: int) -> tuple[Tensor, Tensor]:
        """(demand [R, B] per block of the history, hidden states [R, T, D]).

        The history is all but the last ``horizon`` tokens. Its first tokens are attention sinks and
        have no demand. The demands of a row sum to 1.
        """
        ...


def make_demand_estimator(kind: TeacherKind, base: FrozenBase) -> DemandEstimator:
    """The estimator with this name in a config."""
    if kind == "copies":
        return CopyDemand(base)
    return GradientDemand(base) if kind == "gradient" else AttentionDemand(base)


def _projections(base: FrozenBase, *names: str) -> list[Any]:
    """The attention modules of a model that all have projections of these names.

    Raises:
        ModelError: another kind of attention.
    """
    modules = [m for m in base.module.modules() if hasattr(m, names[0])]
    if not modules or not all(hasattr(m, name) for m in modules for name in names):
        raise ModelError(
            f"model '{base.base.name}' has no Llama-like attention; train LensNet on it with"
            " states.far_share 1."
        )
    return modules


def _block_fractions(need_RT: Tensor, block_size: int) -> Tensor:
    need_RT[:, :_SINK] = 0
    need_RB = need_RT.view(len(need_RT), -1, block_size).sum(-1).clamp(min=0)
    return need_RB / need_RB.sum(1, keepdim=True).clamp(min=1e-9)


class CopyDemand:
    """NLL increase of the coming tokens without distant text, charged to the blocks they copy from.

    A token's increase is its NLL with only the newest tokens in the window minus its NLL with the
    whole history. It is charged to the newest block that contains the same bigram, which is where
    induction heads look it up (Olsson et al. 2022); other tokens charge no block. Works on any
    model.
    """

    def __init__(self, base: FrozenBase) -> None:
        self._base = base

    @torch.no_grad()
    def demand(self, tokens_RT: Tensor, horizon: int, block_size: int) -> tuple[Tensor, Tensor]:
        """See :class:`DemandEstimator`."""
        hidden = self._base.hidden(self._base.embed(tokens_RT))
        latest = tokens_RT[:, -(_LOCAL_TOKENS + horizon) :]
        without_context = self._base.hidden(self._base.embed(latest))
        nll_increase_RH = (
            self._nll(without_context, latest, horizon) - self._nll(hidden, tokens_RT, horizon)
        ).clamp(min=0)
        blocks = (tokens_RT.shape[1] - horizon) // block_size
        need_RB = nll_increase_RH.new_zeros(len(tokens_RT), blocks)
        source_RH, copied_RH = copied_from(tokens_RT, horizon)
        need_RB.scatter_add_(1, source_RH // block_size, nll_increase_RH * copied_RH)
        need_RB = (need_RB - _MIN_SAVED_NATS).clamp(min=0)
        return need_RB / need_RB.sum(1, keepdim=True).clamp(min=1e-9), hidden

    def _nll(self, hidden_RTD: Tensor, tokens_RT: Tensor, horizon: int) -> Tensor:
        """NLL [R, H] of the last tokens."""
        logits = self._base.logits(hidden_RTD[:, -horizon - 1 : -1])
        answer = tokens_RT[:, -horizon:].long()
        return functional.cross_entropy(logits.transpose(1, 2), answer, reduction="none")


def copied_from(tokens_RT: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """For each coming token, the last earlier occurrence of the bigram that it completes.

    Returns:
        (position [R, H] of that occurrence's second token, 0 if it is not in the history;
        bool [R, H], whether it is).
    """
    before, after = tokens_RT[:, :-1], tokens_RT[:, 1:]
    next_tokens = before[:, -horizon:, None], after[:, -horizon:, None]
    same_RHT = (next_tokens[0] == before[:, None]) & (next_tokens[1] == after[:, None])
    position = torch.arange(1, tokens_RT.shape[1], device=tokens_RT.device)
    target_position = position[-horizon:, None]
    latest_RH = torch.where(same_RHT & (position < target_position), position, 0).amax(2)
    copied_RH = (latest_RH > 0) & (latest_RH < tokens_RT.shape[1] - horizon)
    return torch.where(copied_RH, latest_RH, 0), copied_RH


class GradientDemand:
    """First-order estimate of the NLL increase of the last tokens without each block's values.

    The sum of -v · ∂NLL/∂v over all layers and tokens of a block: gradient times input (Shrikumar
    et al. 2017) at the attention values. Unlike attention mass, it is 0 for blocks that are
    attended to without effect. Works on models whose layers have a ``v_proj``.

    Raises:
        ModelError: another kind of attention.
    """

    def __init__(self, base: FrozenBase) -> None:
        self._base = base
        self._modules = _projections(base, "v_proj")

    @torch.enable_grad()
    def demand(self, tokens_RT: Tensor, horizon: int, block_size: int) -> tuple[Tensor, Tensor]:
        """See :class:`DemandEstimator`."""
        values: list[Tensor] = []
        handles = [m.v_proj.register_forward_hook(_store_outputs(values)) for m in self._modules]
        try:
            x = self._base.embed(tokens_RT).detach().requires_grad_()
            hidden = self._base.hidden(x)
        finally:
            for handle in handles:
                handle.remove()
        logits = self._base.logits(hidden[:, -horizon - 1 : -1])
        answer = tokens_RT[:, -horizon:].long()
        nll = functional.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="sum")
        gradients = torch.autograd.grad(nll, values)
        history = tokens_RT.shape[1] - horizon
        need = [
            -(v.detach().float() * g.float()).sum(-1)
            for v, g in zip(values, gradients, strict=True)
        ]
        return _block_fractions(torch.stack(need).sum(0)[:, :history], block_size), hidden.detach()


def _store_outputs(values: list[Tensor]) -> Any:
    def hook(module: Any, args: tuple[Any, ...], out: Tensor) -> None:
        values.append(out)

    return hook


class AttentionDemand:
    """Attention mass that the last tokens of a row pay to each block, over all layers and heads.

    Works on models whose layers have Llama's projections (``q_proj``, ``k_proj``, rotary
    position embeddings handed to the attention module).

    Raises:
        ModelError: another kind of attention.
    """

    def __init__(self, base: FrozenBase) -> None:
        self._base = base
        self._modules = _projections(base, "q_proj", "k_proj")

    @torch.no_grad()
    def demand(self, tokens_RT: Tensor, horizon: int, block_size: int) -> tuple[Tensor, Tensor]:
        """See :class:`DemandEstimator`."""
        per_layer: list[Tensor] = []
        handles = [
            m.register_forward_pre_hook(self._attention_hook(per_layer, horizon), with_kwargs=True)
            for m in self._modules
        ]
        try:
            hidden = self._base.hidden(self._base.embed(tokens_RT))
        finally:
            for handle in handles:
                handle.remove()
        history = tokens_RT.shape[1] - horizon
        return _block_fractions(torch.stack(per_layer).mean(0)[:, :history], block_size), hidden

    def _attention_hook(self, per_layer: list[Tensor], horizon: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            cos, sin = kwargs["position_embeddings"]
            per_layer.append(_attention_mass(module, hidden, cos, sin, horizon))

        return hook


def _attention_mass(module: Any, hidden: Tensor, cos: Tensor, sin: Tensor, horizon: int) -> Tensor:
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
        q = q * cos[..., -horizon:, :] + _rotate_half(q) * sin[..., -horizon:, :]
        k = k * cos + _rotate_half(k) * sin
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    logits = (q @ k.transpose(-1, -2)).float() * module.scaling
    positions = torch.arange(length, device=hidden.device)
    is_future = positions[None] > positions[-horizon:, None]
    fraction: Tensor = logits.masked_fill(is_future, -1e9).softmax(-1).mean((1, 2))
    return fraction


def _rotate_half(x: Tensor) -> Tensor:
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
        windows_RCL: right-padded to one length; no scored token attends to the padding.
        answer_RH: the tokens that the windows end with.
    """
    rows, count, _ = windows_RCL.shape
    horizon = answer_RH.shape[1]
    max_length = int(lengths_RC.max())
    flat = windows_RCL[..., :max_length].flatten(0, 1)
    owner = torch.arange(rows, device=flat.device).repeat_interleave(count)
    ends = lengths_RC.flatten()
    positions = ends[:, None] - horizon - 1 + torch.arange(horizon, device=flat.device)
    costs = []
    for start in range(0, len(flat), rows_at_once):
        part = slice(start, start + rows_at_once)
        x = table_RXD[owner[part][:, None], flat[part]]
        logits = base.logits_at(x, positions[part])
        answer = answer_RH[owner[part]].long()
        nll = functional.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="none")
        costs.append(nll.view(-1, horizon).mean(1))
    return torch.cat(costs).view(rows, count)
