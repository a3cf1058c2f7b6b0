"""Several hops: what an expanded block says becomes the next query.

A chain such as ``B = A … C = B`` shares no word with its question beyond the first link. The part
of a found block that the question attended to is read where it stands; its own tokens are the
queries of the next look-up, in which the block itself takes no part. The same heads serve: a token
attends to where the same thing stands elsewhere. One word, the name that both blocks say, is
enough, so a block counts by the word that attends to it most, and only if it says that word too:
attention alone also goes to lookalikes, such as other numbers. Words of the question do not ask
again: the question has found what they lead to, and all its lookalikes share them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megacontext.core.focus.actions import Bools
from megacontext.core.heads.encoder import HeadEncoder
from megacontext.core.heads.search import block_logits, pair_weights
from megacontext.core.heads.words import HistoryWords
from megacontext.core.tree.spec import U32

__all__ = ["Source", "follow_blocks"]

_REACH = 8
"""Tokens to either side of an attended token that belong to what it says."""
_MIN_ATTENTION = 0.15
"""What one of a block's words has to give another block for it to stand out, however long the
history: text that has nothing to do with a word shares what is left of its attention."""
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
        question: U32[q], ids of the question, whose words do not ask again.
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
    words = HistoryWords(encoder.reader.base, tokens, len(selected) * block_size)
    asked = words.of(question)
    best: dict[int, Source] = {}
    for number, source in enumerate(sources):
        logits = logits_hqb[:, number * block_size : (number + 1) * block_size]
        logits[..., max(0, source.block - 1) : source.block + 2] = -torch.inf
        if not logits.isfinite().any():  # a history of three blocks
            continue
        # Only what was attended to asks, and of that what the question does not say itself.
        start = starts[number]
        near = set(torch.nonzero(weights[number] > 0)[:, 0].tolist())
        rows_of = {
            word: [row for row in rows if row in near]
            for word, rows in words.between(start, start + block_size).items()
            if word not in asked and not near.isdisjoint(rows)
        }
        log_total_hq = logits.logsumexp(-1)
        for attention, block in _sharing(words, rows_of, logits, selected, block_size):
            earlier = best.get(block)
            if earlier and earlier.attention >= attention:
                continue
            best[block] = Source(
                block,
                _FARTHER * min(1.0, attention) * source.strength,
                attention,
                queries_nhqd[number],
                start,
                weights[number],
                log_total_hq,
            )

    return sorted(best.values(), key=lambda source: (-source.attention, source.block))


def _sharing(
    words: HistoryWords,
    rows_of: Mapping[str, Sequence[int]],
    logits_hqb: Tensor,
    selected: Bools,
    block_size: int,
) -> list[tuple[float, int]]:
    """(attention, block) of the blocks that a block leads to, most attended first.

    A block's attention is that of the word which attends to it most, among those it says too.

    Args:
        rows_of: by word, the queries that stand for it.
    """
    if not rows_of:
        return []

    # Attention of each word to each block: of its token that attends most, mean over heads.
    attention_hqb = logits_hqb.softmax(-1)
    attention_wb = torch.stack(
        [attention_hqb[:, rows].amax(1).mean(0) for rows in rows_of.values()]
    )
    attention_wb[:, torch.from_numpy(selected).to(attention_wb.device)] = 0
    top = attention_wb.topk(min(2 * _BRANCHES, attention_wb.shape[1]))

    # The strongest blocks that say the word.
    sharing: dict[int, float] = {}
    for word, attentions, blocks in zip(rows_of, *map(Tensor.tolist, top), strict=True):
        for attention, block in zip(attentions, blocks, strict=True):
            if attention < max(_MIN_ATTENTION, sharing.get(block, 0.0)):
                continue
            if word in words.between(block * block_size, (block + 1) * block_size):
                sharing[block] = attention
    strongest = sorted(((attention, block) for block, attention in sharing.items()), reverse=True)
    return [pair for pair in strongest[:_BRANCHES] if pair[0] >= _OF_BEST * strongest[0][0]]


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
