"""BM25 over blocks of token ids: the lexical control."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from megacontext.core.focus.actions import F32
from megacontext.core.lenses.base import LensNeeds, Observation
from megacontext.core.lenses.blocks import (
    match_strength,
    pool_blocks,
    recency_prior,
    share_neighbours,
)
from megacontext.core.lenses.postings import Postings

__all__ = ["BM25"]


@dataclass
class BM25:
    """Okapi BM25 of the query's token ids in every block, calibrated as ``similarity`` is.

    Robertson and Zaragoza, "The probabilistic relevance framework", 2009. All blocks have the
    same length, so length normalization drops out. The index follows the history; a history
    that got shorter (another session, a rewind) is indexed anew.

    Args:
        k1: saturation of repeated tokens.
        mark: how far a block must stand out to be worth a swap, in universal thresholds.
    """

    k1: float = 1.2
    mark: float = 2.5
    name: str = "bm25"
    _postings: Postings = field(default_factory=Postings, repr=False)

    requires = LensNeeds()

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`."""
        prior = recency_prior(observation)
        query, size = observation.query_tokens, observation.block_size
        closed = (observation.n_tokens - observation.tail_tokens) // size
        if observation.tree is None:
            return prior
        if closed < self._postings.blocks:
            self._postings = Postings()
        done = self._postings.blocks
        if closed > done:
            fresh = observation.tree.tokens(done * size, closed * size)
            self._postings.add(np.asarray(fresh).reshape(-1, size))
        known = min(closed, max(0, observation.n_tokens - len(query)) // size)
        if len(query) == 0 or known < 2:
            return prior
        strength = np.zeros(closed, np.float32)
        strength[:known] = match_strength(self._bm25(query.astype(np.int64))[:known], self.mark)
        strength[:known] = share_neighbours(strength[:known])
        return np.maximum(prior, pool_blocks(strength, observation))

    def _bm25(self, query: np.ndarray) -> F32:
        """F32[blocks]."""
        blocks = self._postings.blocks
        words, repeats = np.unique(query, return_counts=True)
        token, block, count = self._postings.find(words)
        document_count = np.bincount(token, minlength=len(words))
        rarity = repeats * np.log1p((blocks - document_count + 0.5) / (document_count + 0.5))
        gain = rarity[token] * count * (self.k1 + 1) / (count + self.k1)
        return np.bincount(block, gain, minlength=blocks).astype(np.float32)
