"""LensNet's input features of a frontier entry, besides its gist.

Shapes: R states, B level-1 nodes, N frontier entries, F features.

A match with the newest tokens is ranked among all blocks of the history, not among the entries of
the frontier, so that expanding or collapsing other entries does not change it.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["FEATURES", "HIGHEST_TRAINED", "known_blocks", "node_features", "node_max"]

FEATURES = (
    "similarity",  # largest over the descendants' keys, in [-1, 1]
    "outlier",  # similarity in standard deviations over the history's typical blocks
    "behind_best",  # similarity minus the history's largest
    "log_rank",  # log of how many blocks are more similar
    "before",  # largest similarity of the blocks before the descendants
    "after",  # the same of the blocks after them: facts cross block boundaries
    "log_rank_near",  # log of how many blocks are more similar than both
    "log_width",  # log of the span in blocks, of level 2 at most
    "log_distance",  # log of the distance to the cursor in blocks
    "log_age",  # log of the entry's distance from the start of the history in blocks
    "raw",  # 1 for a raw block
    "surprisal",  # mean surprisal of the span's tokens in nats; 0 if unknown
)

_SCALE = (4, 1 / 3, 4, 1 / 3, 4, 4, 1 / 3, 1 / 3, 1 / 4, 1 / 4, 1, 1 / 4)
"""Factors that scale each feature to roughly [-3, 3]."""

_MAX_OUTLIERS = 16  # best blocks that do not count as typical, at most a quarter of all

HIGHEST_TRAINED = 2
"""Nodes of higher levels have the features of level 2: their best block counts."""


def known_blocks(n_blocks: Tensor, n_tokens: Tensor, asked: Tensor, block_size: int) -> Tensor:
    """int[R]: number of blocks that may match, without those that hold the question itself.

    Args:
        n_blocks, n_tokens, asked: int[R]: complete blocks, tokens, and tokens of the question.
    """
    return torch.minimum(n_blocks, (n_tokens - asked).clamp(min=0) // block_size)


def node_max(
    blocks_RB: Tensor, levels_RN: Tensor, index_RN: Tensor, block_size: int, highest: int
) -> Tensor:
    """[R, N]: the largest value over the blocks that each frontier entry covers.

    Args:
        levels_RN: int, 0 for raw blocks. index_RN: int, node index at that level.
        highest: the largest level, known to the caller without asking the device.
    """
    result = blocks_RB.new_zeros(levels_RN.shape)
    level, pooled = 1, blocks_RB
    while True:
        count = pooled.shape[1]
        if count:
            values = pooled.gather(1, index_RN.clamp(max=count - 1))
            result = torch.where(levels_RN.clamp(min=1) == level, values, result)
        level += 1
        if level > highest:
            return result
        groups = count // block_size
        whole = pooled[:, : groups * block_size]
        pooled = whole.reshape(len(whole), groups, block_size).amax(dim=2)


def node_features(
    blocks_RB: Tensor,
    known_R: Tensor,
    levels_RN: Tensor,
    index_RN: Tensor,
    starts_RN: Tensor,
    n_tokens_R: Tensor,
    surprisal_RN: Tensor,
    block_size: int,
    highest: int,
) -> tuple[Tensor, Tensor]:
    """(features [R, N, F] in the order of ``FEATURES``, roughly within [-3, 3]; similarity [R, N]).

    Args:
        blocks_RB: similarity of each level-1 node. known_R: how many of them may match; the rest
            counts as 0.
        levels_RN, index_RN, starts_RN: int, as the frontier has them (starts in tokens).
        n_tokens_R: int, length of each history.
    """
    number = torch.arange(blocks_RB.shape[1], device=blocks_RB.device)
    known = number < known_R[:, None]
    blocks = torch.where(known, blocks_RB, 0.0)
    # Unknown blocks lie below all others, so counting from the top leaves them out.
    ordered = torch.where(known, blocks, -2.0).sort(dim=1).values

    # Mean and variance over typical blocks: in a short history, the best matches would raise them.
    total = known_R[:, None]
    outliers = (total // 4).clamp(max=_MAX_OUTLIERS)
    is_typical = (number >= len(number) - total) & (number < len(number) - outliers)
    count = (total - outliers).clamp(min=1)
    mean = torch.where(is_typical, ordered, 0.0).sum(dim=1, keepdim=True) / count
    variance = torch.where(is_typical, (ordered - mean) ** 2, 0.0).sum(dim=1, keepdim=True) / count
    best = ordered[:, -1:].clamp(min=-1.0)
    similarity, before, after = _with_neighbours(blocks, levels_RN, index_RN, block_size, highest)
    neighbour = torch.maximum(before, after)

    kind, entries = blocks.dtype, similarity.shape[1]
    span = levels_RN.clamp(1, HIGHEST_TRAINED) - 1
    distance = (n_tokens_R[:, None] - starts_RN).clamp(min=0)
    # On a GPU the number of kernels matters, so equal operations are batched.
    both = torch.cat((similarity, neighbour), dim=1)
    above = blocks.shape[1] - torch.searchsorted(ordered, both, right=True)
    positions = torch.stack((distance, starts_RN)).to(kind) / block_size
    rank, rank_near, log_distance, log_age = torch.log1p(
        torch.stack((above[:, :entries], above[:, entries:], positions[0], positions[1]))
    )
    columns = (
        similarity,
        (similarity - mean) * torch.rsqrt(variance + 1e-6),
        similarity - best,
        rank,
        before,
        after,
        rank_near,
        span.to(kind),
        log_distance,
        log_age,
        (levels_RN == 0).to(kind),
        surprisal_RN.to(kind),
    )
    return torch.stack(columns, dim=-1) * _scale(blocks.device, block_size), similarity


@cache
def _scale(device: torch.device, block_size: int) -> Tensor:
    # Cached, since a CUDA graph under capture cannot copy from the host.
    scale = list(_SCALE)
    scale[FEATURES.index("log_width")] *= math.log(block_size)
    return torch.tensor(scale, device=device)


def _with_neighbours(
    blocks_RB: Tensor, levels_RN: Tensor, index_RN: Tensor, block_size: int, highest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Maxima over an entry's blocks, over the blocks before each of them, and those after."""
    rows = len(blocks_RB)
    padded = functional.pad(blocks_RB, (1, 1))
    shifted = torch.cat((padded[:, 1:-1], padded[:, :-2], padded[:, 2:]))
    pooled = node_max(shifted, levels_RN.repeat(3, 1), index_RN.repeat(3, 1), block_size, highest)
    entry_max, before, after = pooled.view(3, rows, -1).unbind(0)
    return entry_max, before, after
