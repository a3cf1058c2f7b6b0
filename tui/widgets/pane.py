"""What all panes share: hold a frame, draw it once, hand out its strips line by line."""

from __future__ import annotations

import re
from collections.abc import Callable

from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from megacontext.tui.palette import Palette
from megacontext.tui.render.canvas import Canvas
from megacontext.tui.state.frame import Frame
from megacontext.tui.state.view import Node
from megacontext.tui.themes import PALETTES

__all__ = ["Pane"]

_NODE = re.compile(r"\bL(\d{1,2})@(\d{1,15})\b")
_WORD = re.compile(r"\w+")
_TAG = re.compile(r"\[[^\]]*\]")


class Pane(Widget, can_focus=False):
    """A widget that draws a :class:`Frame` with a pure function.

    A subclass sets ``draw`` (and may override :meth:`headings`). Cells are computed when a frame
    arrives; where they are the same as before, nothing is repainted.
    """

    ALLOW_SELECT = False
    number = 0
    """Key that maximizes the pane, 0 for none."""
    draw: Callable[..., Canvas]
    needs_texture = False

    def __init__(self) -> None:
        super().__init__()
        self.frame: Frame | None = None
        self._canvas: Canvas | None = None
        self._strips: list[Strip] = []
        self._drawn_with: str = ""
        self._heading = ""

    @property
    def palette(self) -> Palette:
        return PALETTES.get(self.app.theme) or PALETTES["mc-dark"]

    @property
    def texture(self) -> bool:
        """Whether scores need glyphs because colours are few or none."""
        return self.palette.texture or self.app.no_color

    def show(self, frame: Frame) -> None:
        """Take ``frame``; repaint if any cell changed."""
        self.frame = frame
        self._head(frame)
        if self.display and self._redraw():
            self.refresh()

    def headings(self, frame: Frame) -> tuple[str, ...]:
        """The pane's title for ``frame`` as content markup: the longest that fits is shown."""
        return ()

    def _head(self, frame: Frame) -> None:
        """Set the title, where it changed."""
        candidates = self.headings(frame)
        fitting = [h for h in candidates if len(_TAG.sub("", h)) + 4 <= self.size.width]
        heading = (fitting or list(candidates[-1:]) or [self._heading])[0]
        if heading != self._heading:
            self._heading = self.border_title = heading

    def cells(self, frame: Frame, width: int, height: int) -> Canvas:
        """The pane's cells for ``frame``."""
        extra = {"texture": self.texture} if self.needs_texture else {}
        return type(self).draw(frame, width, height, **extra)

    def _redraw(self) -> bool:
        """Compute the cells for the present frame, size and theme; True when they changed."""
        if self.frame is None:
            return False
        width, height = self.size
        canvas = self.cells(self.frame, width, height)
        if self._drawn_with == self.palette.name and canvas.same(self._canvas):
            return False
        self._canvas, self._drawn_with = canvas, self.palette.name
        self._strips = canvas.strips(self.palette)
        return True

    def render_line(self, y: int) -> Strip:
        canvas = self._canvas
        stale = canvas is None or (canvas.width, canvas.height) != tuple(self.size)
        if stale or self._drawn_with != self.palette.name:
            self._redraw()
        if 0 <= y < len(self._strips):
            return self._strips[y]
        return Strip.blank(self.size.width)

    class NodePicked(Message):
        """A node's name was clicked."""

        def __init__(self, node: Node) -> None:
            super().__init__()
            self.node = node

    def _line(self, y: int) -> str:
        """Line ``y`` as text, one character per cell."""
        if self._canvas is None or not 0 <= y < self._canvas.height:
            return ""
        return "".join(chr(c) if 0 < c < 0x10000 else "?" for c in self._canvas.glyph[y].tolist())

    def word_at(self, x: int, y: int) -> str:
        """The word that is written over cell (x, y), "" beside words."""
        words = (match for match in _WORD.finditer(self._line(y)))
        return next((match[0] for match in words if match.start() <= x < match.end()), "")

    def node_at(self, x: int, y: int) -> Node | None:
        """The node whose name is written over cell (x, y)."""
        for match in _NODE.finditer(self._line(y)):
            if match.start() <= x < match.end() and int(match[1]) > 0:
                return Node(int(match[1]), int(match[2]))
        return None

    def on_focus(self) -> None:
        self._again()

    def on_blur(self) -> None:
        self._again()

    def _again(self) -> None:
        """Draw anew: a pane may show more with the focus."""
        if self._redraw():
            self.refresh()

    def on_resize(self) -> None:
        if self.frame is not None:
            self._head(self.frame)
        if self._redraw():
            self.refresh()
