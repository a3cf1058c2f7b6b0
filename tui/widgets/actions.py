"""The action list: scroll it, filter it, go where a line happened."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from megacontext.tui.render.canvas import Canvas
from megacontext.tui.render.side import chip_at, chips_shown, draw_actions
from megacontext.tui.state.action_lines import LogLine
from megacontext.tui.state.frame import Frame
from megacontext.tui.widgets.pane import Pane

__all__ = ["ActionsPane"]

WHEEL = 3


class ActionsPane(Pane, can_focus=True):
    """With the focus, arrows choose a line and enter goes there; without it, the mouse does."""

    number = 5
    draw = staticmethod(draw_actions)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "newer", show=False),
        Binding("down", "move(1)", "older", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown", "page(1)", "page down", show=False),
        Binding("enter", "go", "go there", show=False),
        Binding("slash", "filter('/')", "filter", show=False),
        Binding("plus", "filter('+')", "expansions", show=False),
        Binding("minus", "filter('−')", "collapses", show=False),
        Binding("r", "filter('✗')", "refusals", show=False),
        Binding("backspace", "filter('')", "all", show=False),
    ]

    class Picked(Message):
        """A line was chosen: go to its row and node."""

        def __init__(self, line: LogLine, top: int) -> None:
            super().__init__()
            self.line, self.top = line, top

    class Moved(Message):
        """The cursor shall move ``by`` lines down, on a page of ``page`` lines."""

        def __init__(self, by: int, page: int) -> None:
            super().__init__()
            self.by, self.page = by, page

    class Filtered(Message):
        """Only lines that match ``said`` are wanted; "/" asks for the words."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def headings(self, frame: Frame) -> tuple[str, ...]:
        row, log = frame.row, frame.log
        if row is None:
            return ("Actions",)
        if log.filter or log.cursor is not None:
            words = log.filter.replace("[", "(") or "all"
            position = f"line {log.rank + 1:,} of {log.total:,}" if log.total else "no line"
            return (f"Actions: {words} · {position} · esc all", f"Actions: {words} · {log.total:,}")
        return (
            f"Actions: {len(row.actions)} done, {len(row.refused)} refused · F filters",
            f"Actions: {len(row.actions)} done, {len(row.refused)} refused",
        )

    def cells(self, frame: Frame, width: int, height: int) -> Canvas:
        return draw_actions(frame, width, height, focused=self.has_focus)

    @property
    def _top(self) -> int:
        """Lines that the filters take."""
        frame, height = self.frame, self.size.height
        return int(frame is not None and chips_shown(frame, height, focused=self.has_focus))

    @property
    def _page(self) -> int:
        return max(self.size.height - self._top, 1)

    def action_move(self, by: int) -> None:
        self.post_message(self.Moved(by, self._page))

    def action_page(self, pages: int) -> None:
        self.post_message(self.Moved(pages * self._page, self._page))

    def action_filter(self, text: str) -> None:
        self.post_message(self.Filtered(text))

    def action_go(self) -> None:
        log = self.frame.log if self.frame is not None else None
        chosen = [line for line in log.lines if line.id == log.cursor] if log else []
        if log is not None and log.lines:
            self.post_message(self.Picked((chosen or list(log.lines))[0], log.lines[0].id))

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or self.frame is None:
            return
        if offset.y < self._top:
            text = chip_at(offset.x)
            if text is not None:
                self.post_message(self.Filtered(text))
            return
        lines = self.frame.log.lines
        if offset.y - self._top < len(lines):
            self.post_message(self.Picked(lines[offset.y - self._top], lines[0].id))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.action_move(-WHEEL)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.action_move(WHEEL)
