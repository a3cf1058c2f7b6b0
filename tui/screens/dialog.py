"""What all dialogs share: they close once, however fast a person types."""

from __future__ import annotations

from typing import TypeVar

from textual.await_complete import AwaitComplete
from textual.screen import ModalScreen

__all__ = ["Dialog"]

Result = TypeVar("Result")


class Dialog(ModalScreen[Result]):
    """A modal screen that takes the first answer; keys typed ahead may bring a second one.

    Attributes:
        closed: it was answered and is about to go.
    """

    closed = False

    def dismiss(self, result: Result | None = None) -> AwaitComplete:
        if self.closed:
            return AwaitComplete()  # of nothing
        self.closed = True
        return super().dismiss(result)
