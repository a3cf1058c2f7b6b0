"""What LensNet knows of a frontier entry besides its gist.

Shapes: R states, B level-1 nodes, N frontier entries, F features.

How well a block matches the newest tokens is told by its place among all blocks of the history,
not among the entries of the frontier: expanding or collapsing other entries must not change it.
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
    "outlier",  # similarity in standard deviations over the history's usual blocks
    "behind_best",  # similarity minus the history's largest
    "log_rank",  # log of how many blocks are more similar
    "before",  # largest similarity of the blocks before the descendants
    "after",  # the same of the blocks behind them: facts straddle
    "log_rank_near",  # log of how many blocks are more similar than both
    "log_width",  # log of the span in blocks, of level 2 at most
    "log_distance",  # log of the distance to the cursor in blocks
    "log_age",  # log of the entry's distance from the start of the history in blocks
    "raw",  # 1 for a raw block
    "surprisal",  # mean surprisal of the span's tokens in nats; 0 if unknown
)

_SCALE = (4, 1 / 3, 4, 1 / 3, 4, 4, 1 / 3, 1 / 3, 1 / 4, 1 / 4, 1, 1 / 4)
"""What brings each feature roughly within [-3, 3]."""

_LEFT_OUT = 16  # best blocks that are not usual, a quarter of them at most

HIGHEST_TRAINED = 2
"""Higher nodes look like level 2 apart from their gists: what counts is their best block."""


def known_blocks(n_blocks: Tensor, n_tokens: Tensor, asked: Tensor, block_size: int) -> Tensor:
    """How many blocks may match: not those that hold the question, which match it best.

    Args:
        n_blocks, n_tokens, asked: int[R]: closed blocks, tokens, and newest tokens that ask.
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
            found = pooled.gather(1, index_RN.clamp(max=count - 1))
            result = torch.where(levels_RN.clamp(min=1) == level, found, result)
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
    # What a question asks for is left out of what is usual, or it would hide itself where the
    # history is short.
    total = known_R[:, None]
    best_few = (total // 4).clamp(max=_LEFT_OUT)
    usual = (number >= len(number) - total) & (number < len(number) - best_few)
    count = (total - best_few).clamp(min=1)
    mean = torch.where(usual, ordered, 0.0).sum(dim=1, keepdim=True) / count
    spread = torch.where(usual, (ordered - mean) ** 2, 0.0).sum(dim=1, keepdim=True) / count
    best = ordered[:, -1:].clamp(min=-1.0)
    own, before, after = _with_neighbours(blocks, levels_RN, index_RN, block_size, highest)
    beside = torch.maximum(before, after)

    kind, entries = blocks.dtype, own.shape[1]
    span = levels_RN.clamp(1, HIGHEST_TRAINED) - 1
    distance = (n_tokens_R[:, None] - starts_RN).clamp(min=0)
    # A GPU counts kernels, not entries: what is computed alike is computed at once.
    both = torch.cat((own, beside), dim=1)
    above = blocks.shape[1] - torch.searchsorted(ordered, both, right=True)
    positions = torch.stack((distance, starts_RN)).to(kind) / block_size
    rank, rank_near, far, age = torch.log1p(
        torch.stack((above[:, :entries], above[:, entries:], positions[0], positions[1]))
    )
    columns = (
        own,
        (own - mean) * torch.rsqrt(spread + 1e-6),
        own - best,
        rank,
        before,
        after,
        rank_near,
        span.to(kind),
        far,
        age,
        (levels_RN == 0).to(kind),
        surprisal_RN.to(kind),
    )
    return torch.stack(columns, dim=-1) * _scale(blocks.device, block_size), own


@cache
def _scale(device: torch.device, block_size: int) -> Tensor:
    # Kept: a graph under capture can copy nothing from the host.
    scale = list(_SCALE)
    scale[FEATURES.index("log_width")] *= math.log(block_size)
    return torch.tensor(scale, device=device)


def _with_neighbours(
    blocks_RB: Tensor, levels_RN: Tensor, index_RN: Tensor, block_size: int, highest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest value over an entry's blocks, over those before each, and those behind."""
    rows = len(blocks_RB)
    wide = functional.pad(blocks_RB, (1, 1))
    shifted = torch.cat((wide[:, 1:-1], wide[:, :-2], wide[:, 2:]))
    found = node_max(shifted, levels_RN.repeat(3, 1), index_RN.repeat(3, 1), block_size, highest)
    own, before, after = found.view(3, rows, -1).unbind(0)
    return own, before, after
