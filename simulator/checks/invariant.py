"""The one exception of the checkers."""

from __future__ import annotations

__all__ = ["InvariantError", "require"]


class InvariantError(AssertionError):
    """An invariant does not hold.

    Args:
        invariant: its short name, e.g. ``budget`` or ``cooldown``.
        message: what was seen.
    """

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant, self.message = invariant, message


def require(holds: bool, invariant: str, message: str) -> None:
    """Raise :class:`InvariantError` unless ``holds``; for messages that are cheap to build."""
    if not holds:
        raise InvariantError(invariant, message)
