"""The engine as it is configured, and the same with mean-pooled gists in the window."""

from __future__ import annotations

from megacontext.core.evaluation.contenders.engine import EngineContender, configured_lens

__all__ = ["MEAN", "OURS"]

OURS = EngineContender("ours", "the configured gists, lens, echoes and allocator", configured_lens)
MEAN = EngineContender(
    "mean", "ours with mean-pooled gists in the window", configured_lens, mean_gists=True
)
