"""Index keys against the newest tokens: finds a match under any depth of gists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from megacontext.core.focus.actions import F32
from megacontext.core.lenses.base import U32, LensNeeds, Observation
from megacontext.core.lenses.blocks import (
    match_strength,
    pool_blocks,
    recency_prior,
    share_neighbours,
)

__all__ = ["Similarity"]


@dataclass(frozen=True)
class Similarity:
    """Dot product of query keys with the keys of all blocks, max-pooled over each node.

    Every query key is calibrated by itself against the whole history (see
    :func:`~megacontext.core.lenses.blocks.match_strength`), the best of them counts, neighbours
    of a strong block share it, and a recency prior decides the rest. Blocks that hold the query
    itself do not take part: they would match best.

    Args:
        encode_query: U32[q] tokens to F32[m, key_dim] query keys.
        mark: how far a block must stand out to be worth a swap, in universal thresholds.
    """

    encode_query: Callable[[U32], F32]
    mark: float = 1.0
    name: str = "similarity"
    requires = LensNeeds()

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`. O(blocks x m x key_dim)."""
        prior = recency_prior(observation)
        query, size = observation.query_tokens, observation.block_size
        closed = (observation.n_tokens - observation.tail_tokens) // size
        known = min(closed, max(0, observation.n_tokens - len(query)) // size)
        if observation.tree is None or len(query) == 0 or known < 2:
            return prior
        keys_BD = observation.tree.keys(1, 0, known)
        queries_MD = np.asarray(self.encode_query(query), np.float32)
        matches_MB = queries_MD @ keys_BD.T
        strength = np.zeros(closed, np.float32)
        for match_B in matches_MB:
            np.maximum(strength[:known], match_strength(match_B, self.mark), out=strength[:known])
        strength[:known] = share_neighbours(strength[:known])
        return np.maximum(prior, pool_blocks(strength, observation))
