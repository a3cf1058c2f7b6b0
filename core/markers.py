"""Markers that the engine writes and reads back: nobody else may write them.

``typed @a-b``, ``asked @a-b``, ``answered @a-b`` and ``needle planted @a-b`` say where tokens lie.
A resumed run and the metrics go by them, so a marker of a script or a person must not look alike.
"""

from __future__ import annotations

import re

from megacontext.traces.errors import SourceError

__all__ = ["check_marker"]

_RESERVED = re.compile(r"(?:typed|asked|answered|needle planted) @\d+-\d+")


def check_marker(text: str, field: str) -> str:
    """``text``, if it is no marker of the engine.

    Raises:
        SourceError: it looks like one.
    """
    match = _RESERVED.search(text)
    if match is not None:
        raise SourceError(
            f"{field} is {text!r}, but {match.group()!r} is how the engine marks tokens; use other "
            "words."
        )
    return text
