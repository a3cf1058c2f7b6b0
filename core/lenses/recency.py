"""The newest text in detail, whatever it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.core.focus.actions import F32
from megacontext.core.lenses.base import LensNeeds, Observation
from megacontext.core.lenses.blocks import log_distance

__all__ = ["Recency"]


@dataclass(frozen=True)
class Recency:
    """1 at the cursor, falling with the log of the distance to ``floor`` at the oldest token.

    The default floor lies above ``-tau_collapse``: old text is made coarser only when newer text
    needs its room, so the budget stays in use.
    """

    floor: float = -0.15
    name: str = "recency"
    requires = LensNeeds()

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`."""
        decay = np.float32(1 - self.floor)
        scores: F32 = np.float32(1) - decay * log_distance(observation)
        return scores
