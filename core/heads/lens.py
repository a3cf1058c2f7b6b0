"""The lens: at a question, what the model's own heads attend to in the whole history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from megacontext.core.focus.actions import F32, Bools
from megacontext.core.heads.history_keys import HistoryKeys
from megacontext.core.heads.search import block_attention, pair_weights
from megacontext.core.lenses.base import U32, LensNeeds, Observation, TreeView
from megacontext.core.lenses.blocks import pool_blocks, recency_prior
from megacontext.traces.row import PAIR_DTYPE

__all__ = ["HeadsLens", "Match", "Pair"]

_MAX_QUESTION = 128
"""Newest tokens of a question that ask; a longer one asks with its end."""
_SINK_SCORE = 0.15
"""Of the first block, raw: the attention sink that a model was trained with goes last."""
_SINK_HIDDEN = 0.6
"""Of the gist over the first block: without its sink a model attends to whatever comes first."""
_GIVE_WAY = -0.5
"""Of raw blocks far back that an earlier question expanded, and of the question's near misses."""
_NEIGHBOUR = 0.9
_NEAR_MISS = 0.05
"""A raw block with this fraction of the best block's attention resembles the answer."""


@dataclass(frozen=True)
class Pair:
    """One question token that met one token of a block.

    Attributes:
        query_token, block_token: positions in the history.
        layer, head: which head of the model.
        weight: share of that head's attention, in [0, 1].
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
class _Lookup:
    """What one question found: strength F32[blocks] in [0, 1], selected bool[blocks]."""

    n_tokens: int
    question_tokens: int
    strength: F32
    selected: Bools
    matches: tuple[Match, ...]


class HeadsLens:
    """Scores from the attention of calibrated heads; see :mod:`megacontext.core.heads`.

    At a question a block's strength is its attention over the best block's, averaged over the
    heads. Blocks at or above ``margin`` are expanded, at most ``max_blocks``, each with its two
    neighbours, since a fact may straddle blocks. Raw blocks that resemble the answer without
    reaching the margin, and what earlier questions expanded far back, give way. Between questions
    nothing is asked, and scores are a recency prior.

    Args:
        keys: the history's keys, and what reads them.
    """

    name = "heads"
    requires = LensNeeds()

    def __init__(self, keys: HistoryKeys) -> None:
        self.keys = keys
        self.encoder = keys.encoder
        self._lookup: _Lookup | None = None

    @property
    def matches(self) -> tuple[Match, ...]:
        """Why the newest question's blocks were selected, best first."""
        return () if self._lookup is None else self._lookup.matches

    def score_pairs(self) -> np.ndarray:
        """See :class:`~megacontext.core.lenses.base.ExplainsScores`."""
        rows = [
            (match.block, pair.query_token, pair.block_token, pair.layer, pair.head, pair.weight)
            for match in self.matches
            for pair in match.pairs
        ]
        return np.array(rows, PAIR_DTYPE)

    def block_scores(self) -> F32 | None:
        """Strength of every block at the newest question, F32[blocks]; None before one."""
        return None if self._lookup is None else self._lookup.strength

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`."""
        scores = recency_prior(observation)
        if len(scores) == 0:
            return scores
        scores[0] = max(scores[0], _SINK_SCORE if observation.levels[0] == 0 else _SINK_HIDDEN)
        if observation.tree is None:
            return scores
        if observation.question_tokens == 0:
            self.keys.follow_along(observation.tree.tokens, observation.n_tokens)
            return scores
        lookup = self._look_up(observation, observation.tree)
        return self._scores(scores, lookup, observation)

    def _scores(self, prior: F32, lookup: _Lookup, observation: Observation) -> F32:
        """Frontier scores F32[n] of a question."""
        closed = (observation.n_tokens - observation.tail_tokens) // observation.block_size
        blocks = np.zeros(closed, np.float32)
        known = min(closed, len(lookup.strength))
        wanted = np.flatnonzero(lookup.selected[:known])

        # Selected blocks lie above any threshold in their own order, neighbours just below.
        blocks[wanted] = 0.5 + 0.5 * lookup.strength[wanted]
        for distance in (-1, 1):
            near = wanted + distance
            inside = (near >= 0) & (near < closed)
            shared = _NEIGHBOUR * blocks[wanted[inside]]
            blocks[near[inside]] = np.maximum(blocks[near[inside]], shared)
        if len(wanted):
            blocks[0] = max(blocks[0], 0.5)  # the sink is read along with what is expanded
        scores = np.maximum(prior, pool_blocks(blocks, observation))

        # What is raw without being selected: near misses and what lies far back give way.
        raw = observation.levels == 0
        number = observation.starts // observation.block_size
        chosen = blocks[number] > 0
        strength = np.zeros(closed, np.float32)
        strength[:known] = lookup.strength[:known]
        near_miss = raw & ~chosen & (strength[number] >= _NEAR_MISS)
        newest_run = np.flatnonzero(~raw)
        first_newest = int(newest_run[-1]) + 1 if len(newest_run) else 0
        far = raw & ~chosen & (np.arange(len(raw)) < first_newest)
        scores[near_miss | far] = _GIVE_WAY
        return scores

    def _look_up(self, observation: Observation, tree: TreeView) -> _Lookup:
        """The question's blocks; rounds of one refocus share them."""
        n_tokens, question = observation.n_tokens, observation.question_tokens
        latest = self._lookup
        if latest is not None and (latest.n_tokens, latest.question_tokens) == (n_tokens, question):
            return latest
        size = observation.block_size
        before = n_tokens - question
        asking = min(question, _MAX_QUESTION)
        calibration = self.encoder.calibration
        known = before // size
        if known < 2:
            return _Lookup(n_tokens, question, np.zeros(0, np.float32), np.zeros(0, bool), ())

        # Keys of the history before the question, queries of the question after its context.
        pieces = self.keys.pieces(tree.tokens, before, known * size)
        start = max(0, n_tokens - asking - calibration.left)
        read: U32 = np.asarray(tree.tokens(start, n_tokens))
        queries = self.encoder.queries(read, n_tokens - asking - start)
        attention_hb = block_attention(self.encoder, queries, pieces, size)
        strength, selected, mass = _select(attention_hb, calibration.margin, calibration.max_blocks)
        if mass < calibration.min_mass:
            selected[:] = False

        matches = self._explain(queries, pieces, strength, selected, attention_hb, n_tokens, size)
        self._lookup = _Lookup(n_tokens, question, strength, selected, matches)
        return self._lookup

    def _explain(
        self,
        queries: torch.Tensor,
        pieces: list[torch.Tensor],
        strength: F32,
        selected: Bools,
        attention_hb: torch.Tensor,
        n_tokens: int,
        size: int,
    ) -> tuple[Match, ...]:
        """The selected blocks with the token pairs that most of their attention comes from."""
        order = np.flatnonzero(selected)
        order = order[np.argsort(-strength[order], kind="stable")]
        total = attention_hb.mean(0)
        matches = []
        for block in order.tolist():
            at, piece = block * size, pieces[0]
            if at >= len(pieces[0]):
                at, piece = at - len(pieces[0]), pieces[1]
            weights_hqk = pair_weights(self.encoder, queries, piece[at : at + size])
            weights_hqk *= attention_hb[:, block, None, None] / queries.shape[1]
            top = weights_hqk.flatten().topk(min(8, weights_hqk.numel()))
            pairs = []
            for weight, place in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                head, query, token = np.unravel_index(place, weights_hqk.shape)
                layer, number = self.encoder.calibration.heads[head]
                first = n_tokens - queries.shape[1]
                pairs.append(
                    Pair(int(first + query), int(block * size + token), layer, number, weight)
                )
            matches.append(Match(block, float(strength[block]), float(total[block]), tuple(pairs)))
        return tuple(matches)


def _select(attention_hb: torch.Tensor, margin: float, most: int) -> tuple[F32, Bools, float]:
    """Strength of every block, which are selected, and the best block's mean attention."""
    highest = attention_hb.amax(1, keepdim=True).clamp(min=1e-12)
    strength_b = (attention_hb / highest).mean(0)
    strength: F32 = strength_b.cpu().numpy()
    best = int(strength.argmax())
    order = np.argsort(-strength, kind="stable")[:most]
    selected = np.zeros(len(strength), bool)
    selected[order[strength[order] >= margin * strength[best]]] = True
    return strength, selected, float(attention_hb[:, best].mean())
