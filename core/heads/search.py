"""How much of a question's attention each block of the history would get.

Attention runs over stored keys, a piece of the history at a time: only one number a head, query
and block is kept, so a million tokens need tens of megabytes beside the keys themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megacontext.core.heads.encoder import HeadEncoder

__all__ = ["block_attention", "pair_weights"]

_PIECE_TOKENS = {"cpu": 32_768, "cuda": 1 << 20}


def block_attention(
    encoder: HeadEncoder,
    queries: Tensor,
    keys: list[Tensor],
    block_size: int,
    weights: Tensor | None = None,
    excluded: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Attention of each head to each block, averaged over the queries.

    The first block is an attention sink whatever is asked, and left out of the softmax.

    Args:
        queries: F32[heads, q, D], as :meth:`HeadEncoder.queries` gives them.
        keys: int8 [t, H * D] pieces of the history in order, whole blocks each.
        block_size: tokens of a block.
        weights: F32[q] of the queries, sum 1; None: all alike.
        excluded: further blocks that the softmax leaves out.

    Returns:
        Attention F32[heads, blocks], and the log of each query's softmax total, F32[heads, q].
    """
    parts: list[Tensor] = []
    index, dim = encoder.key_index(), queries.shape[-1]
    step = _PIECE_TOKENS[queries.device.type] // block_size * block_size
    for piece in keys:
        for start in range(0, len(piece), step):
            part = piece[start : start + step].to(queries.device)
            parts.append(_block_logsumexp(queries, part, index, dim, block_size))
    logsumexp_hqb = torch.cat(parts, dim=-1)
    logsumexp_hqb[..., [0, *excluded]] = -torch.inf
    attention_hqb = logsumexp_hqb.softmax(-1)
    log_total_hq = logsumexp_hqb.logsumexp(-1)
    if weights is None:
        return attention_hqb.mean(1), log_total_hq
    return torch.einsum("hqb,q->hb", attention_hqb, weights), log_total_hq


def _block_logsumexp(
    queries: Tensor, keys: Tensor, index: list[int], dim: int, block_size: int
) -> Tensor:
    """Log of the summed exponentials of each block's logits: F32[heads, q, blocks]."""
    count = queries.shape[1]
    kind = torch.float32 if queries.device.type == "cpu" else torch.bfloat16
    rows: list[Tensor | None] = [None] * len(index)
    for key_head in sorted(set(index)):
        # Heads that share a key head are one product.
        heads = [h for h, own in enumerate(index) if own == key_head]
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
        log_total_hq: of the softmax over the whole history, see :func:`block_attention`.
    """
    dim = queries.shape[-1]
    logits = [
        queries[head] @ keys[:, own * dim : (own + 1) * dim].float().T
        for head, own in enumerate(encoder.key_index())
    ]
    return (torch.stack(logits) - log_total_hq[..., None]).exp()
