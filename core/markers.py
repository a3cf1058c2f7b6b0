"""Markers that the engine writes and reads back: nobody else may write them.

``typed @a-b``, ``asked @a-b``, ``answered @a-b`` and ``needle planted @a-b`` say where tokens lie.
A resumed run and the metrics go by them, so a marker of a script or a person must not look alike.
"""

from __future__ import annotations

from megacontext.traces.errors import SourceError
from megacontext.traces.facts import reserved_in

__all__ = ["check_marker"]


def check_marker(text: str, field: str) -> str:
    """``text``, if it is no marker of the engine.

    Raises:
        SourceError: it looks like one.
    """
    reserved = reserved_in(text)
    if reserved is not None:
        raise SourceError(
            f"{field} is {text!r}, but {reserved!r} is how the engine marks tokens; use other "
            "words."
        )
    return text
