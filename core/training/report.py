"""The end of every ``megacontext train`` command: the final figures on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping

__all__ = ["show"]


def show(figures: Mapping[str, float], as_json: bool) -> None:
    """Print one JSON object or a table; nothing in the processes beside the main one."""
    if not figures:
        return
    if as_json:
        print(json.dumps(figures, sort_keys=True))
        return
    for name, value in sorted(figures.items()):
        print(f"{name:28s} {value:8.4f}")
