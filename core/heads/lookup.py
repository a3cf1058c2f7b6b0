"""What a question finds in the whole history: blocks, how strongly, and by which token pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from megacontext.core.focus.actions import F32, Bools
from megacontext.core.heads.encoder import HeadEncoder
from megacontext.core.heads.history_keys import HistoryKeys
from megacontext.core.heads.hops import Source, follow_blocks
from megacontext.core.heads.search import block_logits
from megacontext.core.tree.spec import U32

__all__ = ["Lookup", "Match", "Pair", "look_up"]

_MAX_QUESTION = 128
"""Newest tokens of a question that ask; a longer one asks with its end."""
_PAIRS = 8
"""Token pairs that a match lists."""


@dataclass(frozen=True)
class Pair:
    """One query token that met one token of a block.

    Attributes:
        query_token, block_token: positions in the history.
        layer, head: which head of the model.
        weight: fraction of that head's attention, in [0, 1].
    """

    query_token: int
    block_token: int
    layer: int
    head: int
    weight: float


@dataclass(frozen=True)
class Match:
    """Why a block was selected: its score, its attention, and the strongest token pairs."""

    block: int
    score: float
    attention: float
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Lookup:
    """What one question found.

    Attributes:
        n_tokens, question_tokens: of the history that ends with the question, and of the question.
        strength: F32[blocks] in [0, 1], of the blocks before the question.
        selected: bool[blocks], what should be read raw.
        matches: why, best first; those of later hops behind those of the question.
    """

    n_tokens: int
    question_tokens: int
    strength: F32
    selected: Bools
    matches: tuple[Match, ...]


def look_up(
    keys: HistoryKeys,
    tokens: Callable[[int, int], U32],
    n_tokens: int,
    question_tokens: int,
    block_size: int,
) -> Lookup:
    """The blocks that the newest ``question_tokens`` of a history ask for.

    A block's strength is its attention over the best block's, averaged over the heads. Blocks
    that reach the calibration's margin are selected; its hops then follow what these blocks say.

    Args:
        tokens: ids [start, stop) of the history.
    """
    encoder, calibration = keys.encoder, keys.encoder.calibration
    before = n_tokens - question_tokens
    asking = min(question_tokens, _MAX_QUESTION)
    whole = before // block_size * block_size
    if whole < 2 * block_size:
        return Lookup(n_tokens, question_tokens, np.zeros(0, np.float32), np.zeros(0, bool), ())

    # Keys of the history before the question, queries of the question behind its context.
    pieces = keys.pieces(tokens, before, whole)
    start = max(0, n_tokens - asking - calibration.left)
    first = n_tokens - asking
    queries = encoder.queries(np.asarray(tokens(start, n_tokens)), first - start)
    logits_hqb = block_logits(encoder, queries, pieces, block_size)
    attention_hb, log_total_hq = logits_hqb.softmax(-1).mean(1), logits_hqb.logsumexp(-1)
    strength, selected = _select(attention_hb, calibration.margin, calibration.max_blocks)
    best = int(strength.argmax())
    if float(attention_hb[:, best].mean()) < calibration.min_mass:
        selected[:] = False

    # Matches of the question itself, by strength.
    ranked = np.flatnonzero(selected)
    ranked = ranked[np.argsort(-strength[ranked], kind="stable")]
    mean = attention_hb.mean(0)
    even = torch.full((asking,), 1 / asking, device=queries.device)
    sources = [
        Source(int(b), float(strength[b]), float(mean[b]), queries, first, even, log_total_hq)
        for b in ranked
    ]
    matches = [_explain(encoder, source, pieces, block_size) for source in sources]

    # Further hops: what the newest blocks say becomes the query.
    for _ in range(calibration.hops):
        sources = follow_blocks(encoder, tokens, pieces, sources, selected, block_size)
        for source in sources:
            selected[source.block] = True
            strength[source.block] = max(strength[source.block], source.strength)
            matches.append(_explain(encoder, source, pieces, block_size))
    return Lookup(n_tokens, question_tokens, strength, selected, tuple(matches))


def _select(attention_hb: Tensor, margin: float, most: int) -> tuple[F32, Bools]:
    """Strength of every block, and which are selected."""
    highest = attention_hb.amax(1, keepdim=True).clamp(min=1e-12)
    strength: F32 = (attention_hb / highest).mean(0).cpu().numpy()
    order = np.argsort(-strength, kind="stable")[:most]
    selected = np.zeros(len(strength), bool)
    selected[order[strength[order] >= margin * strength.max()]] = True
    return strength, selected


def _explain(encoder: HeadEncoder, source: Source, pieces: list[Tensor], block_size: int) -> Match:
    """The token pairs that most of the block's attention comes from."""
    weights_hqk = source.pairs(encoder, pieces, block_size)
    top = weights_hqk.flatten().topk(min(_PAIRS, weights_hqk.numel()))
    pairs = []
    for weight, position in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        head, query, token = np.unravel_index(position, tuple(weights_hqk.shape))
        layer, number = encoder.calibration.heads[head]
        at = source.block * block_size + token
        pairs.append(Pair(int(source.first + query), int(at), layer, number, weight))
    return Match(source.block, source.strength, source.attention, tuple(pairs))
