"""The base model's own attention decides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.core.focus.actions import F32
from megacontext.core.lenses.base import LensNeeds, Observation
from megacontext.traces.errors import ConfigError

__all__ = ["Attention"]


@dataclass(frozen=True)
class Attention:
    """tanh of half the log of an entry's attention mass over its fair share of the window.

    The fair share is the entry's part of the frontier's window entries (K for a raw block, 1 for
    a gist), so a gist that draws e times its share scores 0.46. Attention only sees what is in
    the window: a gist that hides its content draws none (that is the point of this control).

    Raises:
        ConfigError: the observation carries no attention mass.
    """

    name: str = "attention"
    requires = LensNeeds(attention=True)

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`."""
        if observation.attention is None:
            raise ConfigError(
                "lens.kind: 'attention' needs attention mass, which this session does not "
                "measure; choose another lens."
            )
        mass = np.asarray(observation.attention, np.float64)
        total = mass.sum()
        if len(mass) == 0 or not total > 0:
            return np.zeros(len(mass), np.float32)
        entries = np.where(observation.levels == 0, observation.block_size, 1)
        ratio = (mass / total) / (entries / entries.sum())
        scores: F32 = np.tanh(0.5 * np.log(np.maximum(ratio, 1e-6))).astype(np.float32)
        return scores
