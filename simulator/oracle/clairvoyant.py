"""A feasible policy that knows the future: a lower bound on what can be reached.

It is a lens that sees the stream's truth ahead of time, in front of one of the real allocators,
so it obeys cooldown, ``n_diff``, rounds, re-arming, headroom and the budget because the product
makes it. What is wanted sooner scores higher (Belady's rule: evict what is used last), so paths
down to raw blocks are opened before they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from megacontext.simulator.lenses import LensView, SimLens
from megacontext.simulator.streams import Lives, Stream

__all__ = ["Clairvoyant"]


@dataclass
class Clairvoyant(SimLens):
    """Scores by the soonest use within ``horizon`` blocks of time, fading by ``fade`` a block."""

    name: ClassVar[str] = "clairvoyant"
    stream: Stream | Lives | None = field(default=None, repr=False)
    horizon: int = 6
    fade: float = 0.93

    def score(self, view: LensView) -> np.ndarray:
        assert self.stream is not None
        scores = np.full(view.levels.size, -0.15, np.float32)
        n_blocks = view.n_tokens // view.block_size
        known = n_blocks * view.block_size
        for ahead in range(self.horizon + 1):
            truth = view.truth if ahead == 0 else self.stream.targets(n_blocks + ahead)
            if not truth.blocks.size or not scores.size:
                continue
            inside = truth.blocks * view.block_size < known
            tokens = truth.blocks[inside] * view.block_size
            entries = np.searchsorted(view.starts, tokens, "right") - 1
            utility = (0.5 + truth.weights[inside] / 2) * self.fade**ahead
            np.maximum.at(scores, entries, utility.astype(np.float32))
        return scores
