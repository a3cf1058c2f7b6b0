"""Ground truth as a lens, for tests and as the upper end of comparisons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.core.focus.actions import F32
from megacontext.core.lenses.base import LensNeeds, Observation
from megacontext.core.lenses.blocks import recency_prior

__all__ = ["Oracle"]


@dataclass(frozen=True)
class Oracle:
    """1 for every node that overlaps a wanted token span, the recency prior for the others."""

    name: str = "oracle"
    requires = LensNeeds()

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`."""
        scores = recency_prior(observation)
        target = observation.target_spans
        if target is None or len(target) == 0 or len(scores) == 0:
            return scores
        spans = np.asarray(target, np.int64)
        spans = spans[spans[:, 1] > spans[:, 0]]
        # Nodes [first, last) of each span; marks at both ends, summed, count covering spans.
        first = np.searchsorted(observation.stops, spans[:, 0], side="right")
        last = np.searchsorted(observation.starts, spans[:, 1], side="left")
        labels = np.zeros(len(scores) + 1, np.int64)
        np.add.at(labels, first, 1)
        np.add.at(labels, np.maximum(first, last), -1)
        scores[np.cumsum(labels[:-1]) > 0] = 1
        return scores
