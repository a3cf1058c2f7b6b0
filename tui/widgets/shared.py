"""Mouse on the panes that share the history as their x axis."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from megacontext.tui.render.history import token_at
from megacontext.tui.widgets.pane import Pane

__all__ = ["HistoryPane"]


class HistoryPane(Pane, can_focus=True):
    """Click selects the node under the pointer, dragging pans, the wheel zooms around it.

    With the focus, arrows walk along the nodes and up and down the tree.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "app.run('select_previous')", "node to the left", show=False),
        Binding("right", "app.run('select_next')", "node to the right", show=False),
    ]

    class Picked(Message):
        """A token was clicked; where the pane shows several rows, in ``row``."""

        def __init__(self, token: int, row: int | None = None) -> None:
            super().__init__()
            self.token, self.row = token, row

    class Zoomed(Message):
        """The wheel turned over a token; ``factor`` < 1 looks closer."""

        def __init__(self, token: int, factor: float) -> None:
            super().__init__()
            self.token, self.factor = token, factor

    class Panned(Message):
        """The pointer was dragged by ``share`` of the window."""

        def __init__(self, share: float) -> None:
            super().__init__()
            self.share = share

    def __init__(self) -> None:
        super().__init__()
        self._dragged = False

    def _token(self, event: events.MouseEvent) -> int | None:
        offset = event.get_content_offset(self)
        if self.frame is None or offset is None:
            return None
        return token_at(self.frame, offset.x, self.size.width)

    def row_at(self, event: events.MouseEvent) -> int | None:
        """The row under the pointer, where the pane shows more than the present one."""
        return None

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self._dragged = False
        self.capture_mouse()

    def on_mouse_up(self, event: events.MouseUp) -> None:
        self.release_mouse()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if event.button and event.delta_x and self.size.width:
            self._dragged = True
            self.post_message(self.Panned(-event.delta_x / self.size.width))

    def on_click(self, event: events.Click) -> None:
        token = self._token(event)
        if token is not None and not self._dragged:
            self.post_message(self.Picked(token, self.row_at(event)))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._wheel(event, 0.8)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._wheel(event, 1.25)

    def _wheel(self, event: events.MouseEvent, factor: float) -> None:
        token = self._token(event)
        if token is not None:
            event.stop()
            self.post_message(self.Zoomed(token, factor))
