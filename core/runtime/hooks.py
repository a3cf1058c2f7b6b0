"""What a program may do at certain moments of a session, without being one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Hooks"]


def _nothing() -> None:
    """Nothing."""


@dataclass(frozen=True)
class Hooks:
    """Called by a session, each with no arguments; they may read it but not drive it.

    Args:
        before_decode: a reply or free text is about to be decoded.
        before_refocus, after_refocus: around every refocus, all its rounds and its row included.
    """

    before_decode: Callable[[], None] = _nothing
    before_refocus: Callable[[], None] = _nothing
    after_refocus: Callable[[], None] = _nothing
