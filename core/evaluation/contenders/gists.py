"""The engine without a lens: what gists alone are worth, and what echoes add to them."""

from __future__ import annotations

from megacontext.core.evaluation.contenders.engine import EngineContender
from megacontext.core.evaluation.sessions.control_lenses import RecencyLens

__all__ = ["ECHO", "GISTS"]

GISTS = EngineContender(
    "gists", "gists without a lens", lambda workspace, sample: RecencyLens(), echoes=False
)
ECHO = EngineContender(
    "echo",
    "gists without a lens, and what the newest tokens echo",
    lambda workspace, sample: RecencyLens(),
)
