"""What LensNet's scores aim at where nothing is asked for: demand and recency.

Shapes: R states, B blocks, N frontier entries.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.training.lensnet_eyes import over_frontier, starts_of

__all__ = ["attention_target", "recency_target"]

_CALM = 0.5  # log ratios of demand to the mark that leave an entry as it is


def attention_target(
    demand_RB: Tensor, levels_RN: Tensor, index_RN: Tensor, valid_RN: Tensor, size: int
) -> Tensor:
    """[R, N] in (-1, 1): positive where an entry holds a block that deserves to be raw.

    The mark is the demand of the block that would just fit: as many blocks deserve to be raw as
    are raw in this frontier.
    """
    raw = ((levels_RN == 0) & valid_RN).sum(1, keepdim=True)
    ordered = demand_RB.sort(dim=1, descending=True).values
    mark = ordered.gather(1, raw.clamp(max=demand_RB.shape[1] - 1)).clamp(min=1e-6)
    most = over_frontier(demand_RB, levels_RN, index_RN, size)
    beyond = torch.log(most.clamp(min=1e-7) / mark)
    return torch.tanh(0.5 * functional.softshrink(beyond, _CALM))


def recency_target(levels_RN: Tensor, index_RN: Tensor, n_tokens_R: Tensor, size: int) -> Tensor:
    """[R, N] from 0.10 (newest) to -0.15 (oldest), as the control lenses' recency prior."""
    stops = starts_of(levels_RN, index_RN, size) + size ** levels_RN.clamp(min=1)
    distance = (n_tokens_R[:, None] - stops).clamp(min=0) / size
    whole = torch.log1p(n_tokens_R[:, None] / size)
    return 0.10 - 0.25 * torch.log1p(distance) / whole
