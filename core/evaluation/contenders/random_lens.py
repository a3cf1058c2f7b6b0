"""The engine with random scores: what is gained without knowing anything."""

from __future__ import annotations

from megacontext.core.evaluation.contenders.engine import EngineContender
from megacontext.core.lenses import make_lens

__all__ = ["RANDOM"]

RANDOM = EngineContender(
    "random",
    "ours with random scores, without echoes",
    lambda workspace, sample: make_lens("random"),
    echoes=False,
)
