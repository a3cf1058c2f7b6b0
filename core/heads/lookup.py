"""What a question finds in the whole history: blocks, how strongly, and by which token pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from megacontext.core.focus.actions import F32, Bools
from megacontext.core.heads.calibration import HeadsCalibration
from megacontext.core.heads.encoder import HeadEncoder
from megacontext.core.heads.example import find_example
from megacontext.core.heads.history_keys import HistoryKeys
from megacontext.core.heads.hops import Source, follow_blocks
from megacontext.core.heads.neighbours import cuts_word, neighbour_runs
from megacontext.core.heads.search import block_logits
from megacontext.core.heads.sentences import sentence_runs
from megacontext.core.tree.spec import U32

__all__ = ["Asked", "Lookup", "Match", "Pair", "ask", "choose", "look_up"]

_MAX_QUESTION = 128
"""Newest tokens of a question that ask; a longer one asks with its end."""
_PAIRS = 8
"""Token pairs that a match lists."""
_OF_STRONGEST = 0.5
"""Fraction of a match's strongest pair from which on a pair says where the match stands."""
_LOOKED_AT = 64
"""Blocks with the most attention, in which an earlier question in the same words would stand."""


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

    def attended(self) -> list[int]:
        """Positions of the block's tokens whose pairs weigh at least half of the strongest."""
        least = _OF_STRONGEST * max(pair.weight for pair in self.pairs)
        return [pair.block_token for pair in self.pairs if pair.weight >= least]


@dataclass(frozen=True)
class Lookup:
    """What one question found.

    Attributes:
        n_tokens, question_tokens: of the history that ends with the question, and of the question.
        strength: F32[blocks] in [0, 1], of the blocks before the question.
        selected: bool[blocks], what the question and its hops found.
        matches: why, best first; those of later hops behind those of the question.
        example: bool[blocks], of an example, which is read whole (:mod:`.example`).
        runs: for each selected block, the blocks that are read with it (:mod:`.sentences`).
    """

    n_tokens: int
    question_tokens: int
    strength: F32
    selected: Bools
    matches: tuple[Match, ...]
    example: Bools
    runs: dict[int, range] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A question's attention over the whole history, whatever is then selected.

    Attributes:
        n_tokens, question_tokens, example: see :class:`Lookup`.
        first: position of the first token that asks.
        pieces: keys of the blocks before the question, int8 [t, H * D] each.
        queries: F32[heads, q, D].
        attention_b: F32[blocks], mean over heads and queries; 0 for an example.
        peak_hb: F32[heads, blocks], root mean square over the queries.
        log_total_hq: F32[heads, q], log of each query's softmax total.
    """

    n_tokens: int
    question_tokens: int
    first: int
    pieces: list[Tensor]
    queries: Tensor
    attention_b: Tensor
    peak_hb: Tensor
    log_total_hq: Tensor
    example: Bools


def look_up(
    keys: HistoryKeys,
    tokens: Callable[[int, int], U32],
    n_tokens: int,
    question_tokens: int,
    block_size: int,
) -> Lookup:
    """The blocks that the newest ``question_tokens`` of a history ask for.

    A head's view of a block is the root mean square of the attention that the question's tokens
    give it: the tokens that know where to look, such as a name, count more than those that attend
    to everything said in the same words. A block's strength is that over the best block's,
    averaged over the heads. Blocks that reach the calibration's margin are selected; its hops then
    follow what these blocks say.

    Args:
        tokens: ids [start, stop) of the history.
    """
    asked = ask(keys, tokens, n_tokens, question_tokens, block_size)
    if asked is None:
        none = np.zeros(0, bool)
        return Lookup(n_tokens, question_tokens, np.zeros(0, np.float32), none, (), none)
    return choose(keys.encoder, keys.encoder.calibration, tokens, asked, block_size)


def ask(
    keys: HistoryKeys,
    tokens: Callable[[int, int], U32],
    n_tokens: int,
    question_tokens: int,
    block_size: int,
) -> Asked | None:
    """The question's attention; None where there is too little history to ask."""
    encoder = keys.encoder
    before = n_tokens - question_tokens
    asking = min(question_tokens, _MAX_QUESTION)
    whole = before // block_size * block_size
    if whole < 2 * block_size:
        return None

    # Keys of the history before the question, queries of the question behind its context.
    pieces = keys.pieces(tokens, before, whole)
    start = max(0, n_tokens - asking - encoder.calibration.left)
    first = n_tokens - asking
    queries = encoder.queries(np.asarray(tokens(start, n_tokens)), first - start)
    logits_hqb = block_logits(encoder, queries, pieces, block_size)
    attention_hqb = logits_hqb.softmax(-1)

    # An example is no candidate.
    most = attention_hqb.mean((0, 1)).topk(min(_LOOKED_AT, logits_hqb.shape[2])).indices
    question = np.asarray(tokens(first, n_tokens))
    span = find_example(question, tokens, whole, most.tolist(), block_size)
    example = np.zeros(logits_hqb.shape[2], bool)
    if span is not None:
        example[span[0] // block_size : -(-span[1] // block_size)] = True
    if example.any() and not example[1:].all():
        logits_hqb[..., torch.from_numpy(example).to(logits_hqb.device)] = -torch.inf
        attention_hqb = logits_hqb.softmax(-1)
    return Asked(
        n_tokens,
        question_tokens,
        first,
        pieces,
        queries,
        attention_hqb.mean((0, 1)),
        attention_hqb.square().mean(1).sqrt(),
        logits_hqb.logsumexp(-1),
        example,
    )


def choose(
    encoder: HeadEncoder,
    calibration: HeadsCalibration,
    tokens: Callable[[int, int], U32],
    asked: Asked,
    block_size: int,
) -> Lookup:
    """What a question selects with the margin and hops of ``calibration``."""
    mean = asked.attention_b
    strength, selected = _select(asked.peak_hb, calibration.margin, calibration.max_blocks)
    if float(mean[int(strength.argmax())]) < calibration.min_mass:
        selected[:] = False

    # Matches of the question itself, by strength.
    ranked = np.flatnonzero(selected)
    ranked = ranked[np.argsort(-strength[ranked], kind="stable")]
    count = asked.queries.shape[1]
    even = torch.full((count,), 1 / count, device=asked.queries.device)
    sources = [
        Source(
            int(block),
            float(strength[block]),
            float(mean[block]),
            asked.queries,
            asked.first,
            even,
            asked.log_total_hq,
        )
        for block in ranked
    ]
    matches = [_explain(encoder, source, asked.pieces, block_size) for source in sources]

    # Further hops: what the newest blocks say becomes the query.
    question = np.asarray(tokens(asked.first, asked.n_tokens))
    for _ in range(calibration.hops):
        known = selected | asked.example
        sources = follow_blocks(encoder, tokens, asked.pieces, sources, known, question, block_size)
        for source in sources:
            selected[source.block] = True
            strength[source.block] = max(strength[source.block], source.strength)
            matches.append(_explain(encoder, source, asked.pieces, block_size))

    # What is read along: sentences, or the neighbours where no sentence ends.
    base = encoder.reader.base
    cuts = cuts_word(base, tokens)
    neighbours = neighbour_runs(selected, calibration.after, block_size, cuts)
    attended = {match.block: match.attended() for match in matches}
    runs = sentence_runs(base, tokens, attended, neighbours, len(selected), block_size)
    return Lookup(
        asked.n_tokens,
        asked.question_tokens,
        strength,
        selected,
        tuple(matches),
        asked.example,
        runs,
    )


def _select(peak_hb: Tensor, margin: float, most: int) -> tuple[F32, Bools]:
    """Strength of every block, and which are selected."""
    highest = peak_hb.amax(1, keepdim=True).clamp(min=1e-12)
    strength: F32 = (peak_hb / highest).mean(0).cpu().numpy()
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
