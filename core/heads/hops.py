"""Several hops: what an expanded block says becomes the next query.

A chain such as ``B = A … C = B`` shares no word with its question beyond the first link. The part
of a found block that the question attended to is read where it stands; its own tokens are the
queries of the next look-up, in which the block itself takes no part. The same heads serve: a token
attends to where the same thing stands elsewhere. One token, the name that both blocks say, is
enough, so a block counts by the token that attends to it most. Tokens of the question do not ask
again: the question has found what they lead to, and all its lookalikes share them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megacontext.core.focus.actions import Bools
from megacontext.core.heads.encoder import HeadEncoder
from megacontext.core.heads.search import block_logits, pair_weights
from megacontext.core.tree.spec import U32

__all__ = ["Source", "follow_blocks"]

_REACH = 8
"""Tokens to either side of an attended token that belong to what it says."""
_MIN_ATTENTION = 0.3
"""What one of a block's tokens has to give another block for it to stand out, however long the
history: text that has nothing to do with a token shares what is left of its attention."""
_OF_BEST = 0.5
"""Fraction of the best block's attention below which a block that could be next is left."""
_FARTHER = 0.9
"""Strength that a block loses with each hop: what the question itself finds comes first."""
_BRANCHES = 3
"""Blocks that one block leads to at most."""
_SOURCES = 8
"""Blocks that one hop follows, the strongest."""


@dataclass(frozen=True)
class Source:
    """A selected block, and the queries that found it.

    Attributes:
        block: number in the history.
        strength, attention: see :class:`~megacontext.core.heads.lookup.Match`.
        queries: F32[heads, q, D].
        first: position of the first query's token.
        weights: F32[q] of the queries, sum 1.
        log_total_hq: F32[heads, q], log of each query's softmax total over the whole history.
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
    question: U32,
    block_size: int,
) -> list[Source]:
    """Blocks that ``sources`` lead to and that are not yet ``selected``, most attended first.

    All of them are read in one pass.

    Args:
        question: U32[q], ids of the question, which do not ask again.
    """
    sources = sources[:_SOURCES]
    if not sources:
        return []

    # Queries: the part of each block that was attended to, read after its own context.
    starts = [source.block * block_size for source in sources]
    left = encoder.calibration.left
    windows = [_window(tokens, start, left, block_size) for start in starts]
    offsets = [min(start, left) for start in starts]
    queries_nhqd = encoder.queries_at(np.stack(windows), offsets, block_size)
    weights = [_attended(source.pairs(encoder, pieces, block_size)) for source in sources]

    # One search for all; a block and its neighbours hold the same words, and nothing new.
    flat = queries_nhqd.transpose(0, 1).flatten(1, 2)
    logits_hqb = block_logits(encoder, flat, pieces, block_size)
    best: dict[int, Source] = {}
    known = torch.from_numpy(selected).to(logits_hqb.device)
    for number, source in enumerate(sources):
        rows = slice(number * block_size, (number + 1) * block_size)
        logits = logits_hqb[:, rows]
        logits[..., max(0, source.block - 1) : source.block + 2] = -torch.inf
        ids = np.asarray(tokens(starts[number], starts[number] + block_size))
        is_new = torch.from_numpy(~np.isin(ids, question)).to(known.device)
        asking = is_new & (weights[number] > 0)
        if not asking.any() or not logits.isfinite().any():  # or a history of three blocks
            continue
        attention_b = logits[:, asking].softmax(-1).amax(1).mean(0)
        log_total_hq = logits.logsumexp(-1)
        top = attention_b.where(~known, 0).topk(min(_BRANCHES, len(attention_b)))
        for mass, block in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            earlier = best.get(block)
            least = max(_MIN_ATTENTION, _OF_BEST * float(top.values[0]))
            if mass < least or (earlier and earlier.attention >= mass):
                continue
            best[block] = Source(
                block,
                _FARTHER * min(1.0, mass) * source.strength,
                mass,
                queries_nhqd[number],
                starts[number],
                weights[number],
                log_total_hq,
            )
    return sorted(best.values(), key=lambda source: (-source.attention, source.block))


def _window(
    tokens: Callable[[int, int], U32], start: int, left: int, block_size: int
) -> NDArray[np.uint32]:
    """The block at ``start`` after ``left`` tokens of context, or from the first token on.

    Padded to one length at its end, which a causal model does not see.
    """
    first = max(0, start - left)
    window = np.asarray(tokens(first, start + block_size))
    return np.pad(window, (0, left + block_size - len(window)))


def _attended(pairs_hqk: Tensor) -> Tensor:
    """Weight F32[K] of each token of a block as a query, sum 1: near what was attended to."""
    received = pairs_hqk.sum((0, 1))
    smooth = torch.nn.functional.max_pool1d(received[None], 2 * _REACH + 1, 1, _REACH)[0]
    smooth = torch.where(smooth >= smooth.max() / 2, smooth, 0)
    return smooth / smooth.sum()
