"""What part of the history is on screen and what is selected: pure, like the playback machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Node", "ViewState", "Window"]

MIN_SPAN = 32
"""Tokens of the narrowest window: about one block."""
DRILL_MARGIN = 3.0
"""Neighbours that drilling in leaves on either side, in widths of the node."""


@dataclass(frozen=True, order=True)
class Node:
    """A tree node, ``level >= 1``. A raw block is its level-1 node, opened."""

    level: int
    index: int

    def span(self, block_size: int) -> tuple[int, int]:
        """Tokens [start, stop)."""
        width = block_size**self.level
        return self.index * width, (self.index + 1) * width

    def parent(self, block_size: int) -> Node:
        return Node(self.level + 1, self.index // block_size)

    def __str__(self) -> str:
        return f"L{self.level}@{self.index}"


@dataclass(frozen=True)
class Window:
    """Tokens [start, stop) that the map, the heat strip and the waterfall share as their x axis.

    ``whole`` keeps the window on all of the history while it grows.
    """

    start: float = 0.0
    stop: float = 1.0
    whole: bool = True

    @property
    def span(self) -> float:
        return self.stop - self.start

    def fit(self, history: int) -> Window:
        """The window on a history of ``history`` tokens: grown along, or kept inside it."""
        total = float(max(history, MIN_SPAN))
        if self.whole or self.span >= total:
            return Window(0.0, total)
        start = min(max(self.start, 0.0), total - self.span)
        return Window(start, start + self.span, whole=False)

    def zoom(self, factor: float, history: int, at: float | None = None) -> Window:
        """Shrink (factor < 1) or widen the window around token ``at`` (default: its middle)."""
        total = float(max(history, MIN_SPAN))
        span = min(max(self.span * factor, float(MIN_SPAN)), total)
        if span >= total:
            return Window(0.0, total)
        at = (self.start + self.stop) / 2 if at is None else min(max(at, self.start), self.stop)
        fraction = (at - self.start) / self.span if self.span else 0.5
        start = at - fraction * span
        return Window(start, start + span, whole=False).fit(history)

    def pan(self, share: float, history: int) -> Window:
        """Move by ``share`` of the window's width."""
        if self.whole:
            return self
        move = self.span * share
        return replace(self, start=self.start + move, stop=self.stop + move).fit(history)

    def around(self, start: float, stop: float, history: int, *, margin: float = 1.0) -> Window:
        """A window on tokens [start, stop) with ``margin`` times their width on either side."""
        width = max(stop - start, float(MIN_SPAN))
        low = (start + stop) / 2 - width * (0.5 + margin)
        span = width * (1 + 2 * margin)
        if span >= max(history, MIN_SPAN):
            return Window().fit(history)
        return Window(low, low + span, whole=False).fit(history)


@dataclass(frozen=True)
class ViewState:
    """Everything a person chose about the view; playback is apart.

    Attributes:
        window: the shared x axis.
        node: the selected node, if any.
        scale_per_step: score colours span this row's scores instead of −1…1.
        show_detail: the waterfall shows the level of detail instead of scores.
        inspecting: the inspector stands where the action log stood.
        maximized: 0, or the number (1–6) of the only pane on screen.
        scroll: lines the text pane is scrolled down.
        trail: earlier (window, node, inspecting) for the way back out.
        talking: the conversation has a pane of its own.
        needle: the text last searched for; its hits are marked in the text pane and on the map.
        as_written: the text pane keeps line breaks and indentation, else it runs lines together.
        log_at, log_top: the chosen line of the action list and the one on top of it, by their
            ids; None where the list follows the present row.
        log_filter: words that the list's lines must match.
    """

    window: Window = Window()
    node: Node | None = None
    scale_per_step: bool = False
    show_detail: bool = False
    inspecting: bool = False
    maximized: int = 0
    scroll: int = 0
    trail: tuple[tuple[Window, Node | None, bool], ...] = ()
    needle: str = ""
    talking: bool = False
    as_written: bool = True
    log_at: int | None = None
    log_top: int | None = None
    log_filter: str = ""

    def at_line(self, at: int, top: int) -> ViewState:
        """With line ``at`` of the action list chosen and ``top`` on top."""
        return replace(self, log_at=at, log_top=top)

    def select(self, node: Node | None) -> ViewState:
        return replace(self, node=node, scroll=0 if node != self.node else self.scroll)

    def remember(self) -> ViewState:
        """Put the present view on the way back (at most 32 deep)."""
        here = (self.window, self.node, self.inspecting)
        return replace(self, trail=(*self.trail[-31:], here))

    def drill(self, history: int, block_size: int) -> ViewState:
        """One step closer to the selected node: onto it, then into its life."""
        if self.node is None:
            return self
        start, stop = self.node.span(block_size)
        width = max(stop - start, MIN_SPAN)
        margin = min(DRILL_MARGIN, max(history / (4 * width), 1.0))  # closer than everything
        target = self.window.around(start, stop, history, margin=margin)
        close = self.window.span <= target.span * 1.01 and self.window.start <= start
        if close and self.inspecting:
            return self
        window = self.window if close else target
        return replace(self.remember(), window=window, inspecting=True)

    def back(self) -> ViewState:
        """Undo the last drill-in; from the outermost view: everything, nothing maximized."""
        if self.maximized:
            return replace(self, maximized=0)
        if self.log_at is not None or self.log_filter:
            return replace(self, log_at=None, log_top=None, log_filter="")
        if self.trail:
            window, node, inspecting = self.trail[-1]
            return replace(
                self, window=window, node=node, inspecting=inspecting, trail=self.trail[:-1]
            )
        return replace(self, window=Window(), inspecting=False, needle="", talking=False)

    def reset(self) -> ViewState:
        """All panes, the whole history; the selection stays."""
        return replace(self, window=Window(), inspecting=False, maximized=0, trail=(), scroll=0)
