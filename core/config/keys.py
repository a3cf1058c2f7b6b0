"""Two configs key by key: what a run did, apart from where it kept things and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["WHERE_AND_HOW", "by_path"]

WHERE_AND_HOW = (
    "tree.path",
    "tree.storage",
    "tree.commit_blocks",
    "trace.flush",
    "trace.queue",
    "telemetry",
)
"""Key paths, or their beginnings, that say where a run keeps things and not what it does."""


def by_path(section: object, path: str = "") -> dict[str, Any]:
    """The values of a nested mapping by key path; anything else is one value at ``path``."""
    if not isinstance(section, Mapping) or not section:
        return {path: section}
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= by_path(value, f"{path}.{key}" if path else str(key))
    return flat
