"""From the config to what a policy's constructor takes."""

from __future__ import annotations

from typing import Any

from megacontext.core.config.schema import AllocatorConfig

__all__ = ["allocator_options"]


def allocator_options(config: AllocatorConfig) -> dict[str, Any]:
    """What the configured policy takes beside the limits."""
    match config.kind:
        case "stochastic_greedy":
            return {"temperature": config.temperature, "top_k": config.top_k}
        case "slot":
            return {"temperature": config.temperature}
        case "learned" | "transformer":
            return {"path": config.path}
        case _:
            return {}
