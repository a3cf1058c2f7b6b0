"""Lenses that only an evaluation uses: one that knows the answer, one that wants nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from megacontext.core.focus.actions import F32, I64
from megacontext.core.lenses import LensNeeds, Observation, Oracle
from megacontext.core.lenses.blocks import recency_prior

__all__ = ["OracleLens", "RecencyLens"]


@dataclass
class OracleLens:
    """Scores 1 for every node that overlaps the gold ``spans`` I64[m, 2].

    Before the question it knows no more than other lenses: ``active`` is set when the question
    comes.
    """

    spans: I64
    active: bool = False
    name: str = "oracle"
    requires = LensNeeds()

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`."""
        return Oracle().score(
            replace(observation, target_spans=self.spans if self.active else None)
        )


@dataclass(frozen=True)
class RecencyLens:
    """Gists without a lens: nothing is expanded, and the oldest is collapsed if it must be."""

    name: str = "none"
    requires = LensNeeds()

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`."""
        return recency_prior(observation)
