"""Several hops: what an expanded block says becomes the next query.

A chain such as ``B = A … C = B`` shares no word with its question beyond the first link. The part
of a found block that the question attended to is read where it stands; its own tokens are the
queries of the next look-up, in which the block itself takes no part. The same heads serve: a token
attends to where the same thing stands elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from megacontext.core.focus.actions import Bools
from megacontext.core.heads.encoder import HeadEncoder
from megacontext.core.heads.search import block_attention, pair_weights
from megacontext.core.tree.spec import U32

__all__ = ["Source", "follow_blocks"]

_REACH = 8
"""Tokens to either side of an attended token that belong to what it says."""
_MIN_MASS = 0.04
"""Attention of a block's tokens below which no other block stands out."""
_BRANCHES = 3
"""Blocks that one block leads to at most."""


@dataclass(frozen=True)
class Source:
    """A selected block, and the queries that found it.

    Attributes:
        block: number in the history.
        strength, attention: see :class:`~megacontext.core.heads.lookup.Match`.
        queries: F32[heads, q, D].
        first: position of the first query's token.
        weights: F32[q] of the queries, sum 1.
        log_total_hq: F32[heads, q], see :func:`~megacontext.core.heads.search.block_attention`.
    """

    block: int
    strength: float
    attention: float
    queries: Tensor
    first: int
    weights: Tensor
    log_total_hq: Tensor

    def pairs(self, encoder: HeadEncoder, pieces: list[Tensor], block_size: int) -> Tensor:
        """Attention of each query to each token of the block, weighted: F32[heads, q, K]."""
        start, piece = self.block * block_size, pieces[0]
        if start >= len(piece):
            start, piece = start - len(piece), pieces[1]
        keys = piece[start : start + block_size]
        weights_hqk = pair_weights(encoder, self.queries, keys, self.log_total_hq)
        return weights_hqk * self.weights[:, None]


def follow_blocks(
    encoder: HeadEncoder,
    tokens: Callable[[int, int], U32],
    pieces: list[Tensor],
    sources: Sequence[Source],
    selected: Bools,
    block_size: int,
) -> list[Source]:
    """Blocks that ``sources`` lead to and that are not yet ``selected``, strongest first."""
    best: dict[int, Source] = {}
    for source in sources:
        # Queries: the part of the block that was attended to, read behind its own context.
        start = source.block * block_size
        first = max(0, start - encoder.calibration.left)
        text = np.asarray(tokens(first, start + block_size))
        queries = encoder.queries(text, start - first)
        weights = _attended(source.pairs(encoder, pieces, block_size))

        # The block and its neighbours hold the same words, and nothing new.
        near = range(max(0, source.block - 1), min(len(selected), source.block + 2))
        attention_hb, log_total_hq = block_attention(
            encoder, queries, pieces, block_size, weights, near
        )
        mean_b = attention_hb.mean(0)
        top = mean_b.topk(min(_BRANCHES, len(mean_b)))
        for mass, block in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            known = best.get(block)
            if mass < _MIN_MASS or selected[block] or (known and known.attention >= mass):
                continue
            strength = min(1.0, mass) * source.strength
            best[block] = Source(block, strength, mass, queries, start, weights, log_total_hq)
    return sorted(best.values(), key=lambda found: (-found.attention, found.block))


def _attended(pairs_hqk: Tensor) -> Tensor:
    """Weight F32[K] of each token of a block as a query, sum 1: near what was attended to."""
    received = pairs_hqk.sum((0, 1))
    smooth = torch.nn.functional.max_pool1d(received[None], 2 * _REACH + 1, 1, _REACH)[0]
    smooth = torch.where(smooth >= smooth.max() / 2, smooth, 0)
    return smooth / smooth.sum()
