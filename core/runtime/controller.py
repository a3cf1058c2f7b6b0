"""The port through which a session is controlled while it runs, and a controller that does nothing.

:mod:`~megacontext.core.runtime.socket_controller` has those that read commands and turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from megacontext.core.runtime.session import Session

__all__ = ["Controller", "NullController", "Stop"]


class Stop(Exception):  # noqa: N818 - a request, not an error
    """The session was asked to end; everything so far is kept."""


class Controller(Protocol):
    """What a session asks between two steps."""

    def serve(self, session: Session) -> None:
        """Carry out what was asked; blocks while paused; raises :class:`Stop`."""
        ...

    def next_turn(self, session: Session) -> str:
        """The next line of a conversation; raises :class:`Stop` when there is none."""
        ...

    def on_reply(self, text: str) -> None:
        """Show a decoded reply to whoever wrote the turn."""
        ...

    def on_question(self, text: str) -> None:
        """A person's turn is being taken in; its reply follows token by token."""
        ...

    def on_token(self, text: str, nll: float) -> None:
        """The next token of a reply: its text, and its NLL in nats."""
        ...

    def on_answer(self, text: str) -> None:
        """The reply is complete and in the trace."""
        ...


class NullController:
    """Nobody steers: no commands, no turns, and replies go nowhere."""

    def serve(self, session: Session) -> None:
        """Nothing can be asked."""

    def next_turn(self, session: Session) -> str:
        raise Stop

    def on_reply(self, text: str) -> None:
        """Nobody wrote the turn."""

    def on_question(self, text: str) -> None:
        """Nobody watches."""

    def on_token(self, text: str, nll: float) -> None:
        """Nobody watches."""

    def on_answer(self, text: str) -> None:
        """Nobody watches."""
