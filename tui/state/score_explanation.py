"""Why a block got its score: which tokens of the query met which tokens of the block.

Whatever a lens records or the viewer computes becomes a :class:`ScoreExplanation`; the inspector
draws nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from megacontext.traces.token_index import TokenIndex
from megacontext.tui.sources.row_model import F64, I64, RowModel
from megacontext.tui.state.view import Node

__all__ = ["Pair", "ScoreExplanation", "bm25", "recorded", "strongest"]

K1 = 1.2
"""Saturation of repeated tokens, as the lens ``bm25`` has it."""
MAX_PAIRS = 24


class Pair(NamedTuple):
    """A token of the query that met a token of the block.

    Attributes:
        query_token, block_token: their positions in the history.
        weight: its part of the score; all weights of one explanation share a unit.
        label: what made it: "bm25", or the name of an attention head.
    """

    query_token: int
    block_token: int
    weight: float
    label: str


@dataclass(frozen=True)
class ScoreExplanation:
    """Where a score comes from.

    Attributes:
        node: the node that was asked about.
        block: the block inside it that the pairs are about; the node itself at level 1.
        pairs: strongest first.
        texts: what the tokens that the pairs name say, by position.
        method: how the weights came about, in words.
        total: the sum over all pairs, also those that are not listed.
        complete: all that is needed was read.
    """

    node: Node
    block: Node
    pairs: tuple[Pair, ...] = ()
    texts: tuple[tuple[int, str], ...] = ()
    method: str = ""
    total: float = 0.0
    complete: bool = True

    def text(self, token: int) -> str:
        """What the token at a position says."""
        return dict(self.texts).get(token, "")


def strongest(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The pairs worth listing, strongest first, each query token once per label."""
    best: dict[tuple[int, str], Pair] = {}
    for pair in sorted(pairs, key=lambda p: -p.weight):
        best.setdefault((pair.query_token, pair.label), pair)
    return tuple(best.values())[:MAX_PAIRS]


def _over_heads(pairs: Sequence[Pair]) -> list[Pair]:
    """Each pair of tokens once, with the sum of its weights and the names of all its heads."""
    groups: dict[tuple[int, int], list[Pair]] = {}
    for pair in sorted(pairs, key=lambda p: -p.weight):
        groups.setdefault((pair.query_token, pair.block_token), []).append(pair)

    # Strongest pair first, and in each the strongest head.
    combined = []
    for (query, block), group in groups.items():
        labels = list(dict.fromkeys(pair.label for pair in group))
        label = labels[0]
        if len(labels) > 1:
            label = "heads " + ", ".join(name.removeprefix("head ") for name in labels)
        combined.append(Pair(query, block, sum(pair.weight for pair in group), label))
    return sorted(combined, key=lambda p: -p.weight)


def bm25(index: TokenIndex, row: RowModel, node: Node, query_tokens: int) -> ScoreExplanation:
    """Okapi BM25 of the newest ``query_tokens`` tokens in ``node``'s best block.

    Robertson and Zaragoza, "The probabilistic relevance framework", 2009; all blocks have the
    same length. Tokens that the query itself brought are no evidence, as in the lens.
    """
    size = row.block_size
    known = max(0, row.history - query_tokens) // size
    positions = np.arange(max(row.history - query_tokens, 0), row.history)
    ids = index.tokens(int(positions[0]) if len(positions) else 0, row.history)
    positions = positions[: len(ids)]
    words, first, repeats = np.unique(ids, return_index=True, return_counts=True)
    holding = index.holding(words, known)
    rarity = repeats * np.log1p((known - holding + 0.5) / (holding + 0.5))
    rarity[words < 0] = 0.0

    # The best block inside the node, by the sum of its gains.
    start, stop = node.span(size)
    last = min(stop // size, known)
    method = f"BM25 terms of the newest {len(ids)} tokens, computed by the viewer"
    if last <= start // size or not len(words):
        return ScoreExplanation(node, Node(1, start // size), method=method)
    texts = index.tokens(start, last * size).reshape(-1, size)
    gains = _gains(texts, words, rarity)
    best = int(gains.sum(axis=1).argmax())
    block, text = start // size + best, texts[best]
    pairs = [
        Pair(
            int(positions[first[word]]),
            block * size + int(np.flatnonzero(text == words[word])[0]),
            float(gains[best, word]),
            "bm25",
        )
        for word in np.flatnonzero(gains[best] > 0).tolist()
    ]
    total = float(gains[best].sum())
    return ScoreExplanation(node, Node(1, block), strongest(pairs), method=method, total=total)


def recorded(node: Node, pairs: Sequence[Pair], block_size: int) -> ScoreExplanation:
    """What a lens recorded about ``node`` with the scores."""
    ranked = tuple(_over_heads(pairs))[:MAX_PAIRS]
    token = ranked[0].block_token if ranked else node.span(block_size)[0]
    total = sum(pair.weight for pair in pairs)
    block = Node(1, token // block_size)
    method = "attention by heads of the model, recorded by the lens"
    return ScoreExplanation(node, block, ranked, method=method, total=total)


def _gains(blocks: I64, words: I64, rarity: np.ndarray) -> F64:
    """F64[blocks, words]: what each word of the query adds to each block's score."""
    count = np.stack([(blocks == word).sum(axis=1) for word in words], axis=1)
    gain: F64 = rarity * count * (K1 + 1) / (count + K1)
    return gain
