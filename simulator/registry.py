"""Look-up by name with the one sentence that a wrong name deserves."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from megacontext.traces.errors import ConfigError

__all__ = ["pick"]

T = TypeVar("T")


def pick(table: Mapping[str, T], name: str, field: str) -> T:
    """``table[name]``.

    Raises:
        ConfigError: the name is unknown; the message lists the known ones.
    """
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(f"{field} {name!r} is unknown; {hint}use one of {', '.join(sorted(table))}.")
