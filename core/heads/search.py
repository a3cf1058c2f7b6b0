"""How much of a question's attention each block of the history would get.

Attention runs over stored keys, a piece of the history at a time: only one number a head, query
and block is kept, so a million tokens need tens of megabytes beside the keys themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megacontext.core.heads.encoder import HeadEncoder

__all__ = ["block_logits", "pair_weights"]

_PIECE_TOKENS = {"cpu": 32_768, "cuda": 1 << 20}
_QUERIES = 128
"""Queries for which a piece of that many tokens is meant; more queries read smaller pieces."""


def block_logits(
    encoder: HeadEncoder, queries: Tensor, keys: list[Tensor], block_size: int
) -> Tensor:
    """Log of the summed exponentials of each block's logits: F32[heads, q, blocks].

    A softmax over the blocks gives the attention to each. The first block is an attention sink
    whatever is asked, and gets none.

    Args:
        queries: F32[heads, q, D], as :meth:`HeadEncoder.queries` gives them.
        keys: int8 [t, H * D] pieces of the history in order, whole blocks each.
        block_size: tokens of a block.
    """
    parts: list[Tensor] = []
    index, dim = encoder.key_index(), queries.shape[-1]
    most = _PIECE_TOKENS[queries.device.type] * _QUERIES // max(_QUERIES, queries.shape[1])
    step = max(1, most // block_size) * block_size
    for piece in keys:
        for start in range(0, len(piece), step):
            part = piece[start : start + step].to(queries.device)
            parts.append(_block_logsumexp(queries, part, index, dim, block_size))
    logits_hqb = torch.cat(parts, dim=-1)
    logits_hqb[..., 0] = -torch.inf
    return logits_hqb


def _block_logsumexp(
    queries: Tensor, keys: Tensor, index: list[int], dim: int, block_size: int
) -> Tensor:
    """Log of the summed exponentials of each block's logits: F32[heads, q, blocks]."""
    count = queries.shape[1]
    kind = torch.float32 if queries.device.type == "cpu" else torch.bfloat16
    rows: list[Tensor | None] = [None] * len(index)
    for key_head in sorted(set(index)):
        # Heads that share a key head are one product.
        heads = [h for h, of_head in enumerate(index) if of_head == key_head]
        part = keys[:, key_head * dim : (key_head + 1) * dim].to(kind)
        logits = (queries[heads].flatten(0, 1).to(kind) @ part.T).float()
        pooled = logits.view(len(heads), count, -1, block_size).logsumexp(-1)
        for row, head in enumerate(heads):
            rows[head] = pooled[row]
    return torch.stack([row for row in rows if row is not None])


def pair_weights(
    encoder: HeadEncoder, queries: Tensor, keys: Tensor, log_total_hq: Tensor
) -> Tensor:
    """Attention of each query to each token of one block, F32[heads, q, K].

    Args:
        keys: int8 [K, H * D], of the block.
        log_total_hq: F32[heads, q], log of each query's softmax total over the whole history.
    """
    dim = queries.shape[-1]
    logits = [
        queries[head] @ keys[:, key_head * dim : (key_head + 1) * dim].float().T
        for head, key_head in enumerate(encoder.key_index())
    ]
    return (torch.stack(logits) - log_total_hq[..., None]).exp()
