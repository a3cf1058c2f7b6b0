"""What LensNet knows of a frontier entry besides its gist.

Shapes: B states, N frontier entries, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "FEATURES",
    "HIGHEST_TRAINED",
    "before_question",
    "node_features",
    "node_similarity",
    "shared_with_neighbours",
]

FEATURES = (
    "similarity",  # largest over the descendants' keys, in [-1, 1]
    "standing",  # similarity in standard deviations over the frontier
    "behind_best",  # similarity minus the frontier's largest
    "log_rank",  # log of the rank by similarity over the frontier
    "neighbour",  # largest similarity with the spans' neighbours shared in
    "log_width",  # log of the span in blocks, of level 2 at most
    "log_distance",  # log of the distance to the cursor in blocks
    "log_age",  # log of the entry's distance from the start of the history in blocks
    "raw",  # 1 for a raw block
    "surprisal",  # mean surprisal of the span's tokens in nats; 0 if unknown
)

HIGHEST_TRAINED = 2
"""Training histories have two levels; higher nodes look like level 2 apart from their gists."""


def before_question(blocks: Tensor, n_tokens: Tensor, asked: Tensor, block_size: int) -> Tensor:
    """Similarities [..., n] of blocks, 0 for those that hold the question: they match it best.

    Args:
        n_tokens, asked: int[..., 1], length of the history and how many newest tokens ask.
    """
    number = torch.arange(blocks.shape[-1], device=blocks.device)
    return torch.where(number < (n_tokens - asked) // block_size, blocks, 0.0)


def shared_with_neighbours(similarity: Tensor, share: float) -> Tensor:
    """Each block's similarity [..., n], or ``share`` of a better neighbour's: facts straddle."""
    if similarity.shape[-1] < 2:
        return similarity
    best = similarity.clone()
    best[..., 1:] = torch.maximum(best[..., 1:], similarity[..., :-1] * share)
    best[..., :-1] = torch.maximum(best[..., :-1], similarity[..., 1:] * share)
    return best


def node_similarity(
    blocks: Tensor, levels: Tensor, index: Tensor, block_size: int, highest: int
) -> Tensor:
    """Max-pool the similarities of level-1 nodes over what each frontier entry covers.

    Args:
        blocks: float[n1], similarity of each level-1 node.
        levels: int[N], 0 for raw blocks. index: int[N], node index at that level.
        block_size: K.
        highest: the largest of ``levels``, known to the caller without asking the device.

    Returns:
        float[N].
    """
    result = blocks.new_zeros(levels.shape)
    level, pooled = 1, blocks
    while True:
        here = levels.clamp(min=1) == level
        if len(pooled):
            result = torch.where(here, pooled[index.clamp(max=len(pooled) - 1)], result)
        level += 1
        if level > highest:
            return result
        complete = len(pooled) // block_size
        pooled = pooled[: complete * block_size].view(complete, block_size).amax(dim=1)


def node_features(
    similarity: Tensor,
    neighbour: Tensor,
    levels: Tensor,
    starts: Tensor,
    n_tokens: Tensor,
    block_size: int,
    surprisal: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Features [B, N, F], in the order of ``FEATURES``, roughly within [-3, 3].

    Args:
        similarity, neighbour: [B, N]. levels, starts: int[B, N] (starts in tokens).
        n_tokens: int[B], length of each history.
        valid: bool[B, N]; False where a row is padding.
    """
    keep = torch.ones_like(similarity, dtype=torch.bool) if valid is None else valid
    count = keep.sum(dim=1, keepdim=True).clamp(min=1)
    only = torch.where(keep, similarity, 0.0)
    mean = only.sum(dim=1, keepdim=True) / count
    spread = torch.where(keep, (similarity - mean) ** 2, 0.0).sum(dim=1, keepdim=True) / count
    best = torch.where(keep, similarity, -2.0).amax(dim=1, keepdim=True)
    order = torch.where(keep, similarity, -2.0).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank.scatter_(1, order, places)
    width = block_size ** (levels.clamp(1, HIGHEST_TRAINED) - 1).to(similarity.dtype)
    distance = (n_tokens[:, None] - starts).clamp(min=0) / block_size
    columns = (
        similarity * 4,
        (similarity - mean) * torch.rsqrt(spread + 1e-6) / 3,
        (similarity - best) * 4,
        torch.log1p(rank.to(similarity.dtype)) / 3,
        neighbour * 4,
        torch.log(width) / 3,
        torch.log1p(distance.to(similarity.dtype)) / 4,
        torch.log1p(starts.to(similarity.dtype) / block_size) / 4,
        (levels == 0).to(similarity.dtype),
        torch.zeros_like(similarity) if surprisal is None else surprisal / 4,
    )
    return torch.stack(columns, dim=-1)
