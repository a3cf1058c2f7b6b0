"""Two traces side by side on one time axis: the same panes twice, and what differs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Footer

from megacontext.tui.app import InspectorApp
from megacontext.tui.diff import draw_difference
from megacontext.tui.frame import Frame
from megacontext.tui.model import I64
from megacontext.tui.palette import Role
from megacontext.tui.render.canvas import BOLD, Canvas
from megacontext.tui.session import Session
from megacontext.tui.source import Source
from megacontext.tui.widgets import (
    ActionsPane,
    BudgetPane,
    HeatPane,
    InspectorPane,
    MapPane,
    Pane,
    Scrubber,
    StoryLine,
    TextPane,
    TitleLine,
    WaterfallPane,
)

__all__ = ["DiffApp", "DifferencePane", "same_moment"]


class DifferencePane(Pane):
    """The strip of differences and the two runs' numbers."""

    number = 0

    def __init__(self, leader: str = "A") -> None:
        super().__init__()
        self._leader = leader
        self.other: Frame | None = None

    def headings(self, frame: Frame) -> tuple[str, ...]:
        said = "Difference: who sees which part finer"
        return (f"{said} · {self._leader} leads: keys and the line below are about it", said)

    def cells(self, frame: Frame, width: int, height: int) -> Canvas:
        return draw_difference((frame, self.other or frame), width, height)


class _SideTitle(TitleLine):
    """A run's title with its letter."""

    def __init__(self, letter: str) -> None:
        super().__init__()
        self._letter = letter

    def cells(self, frame: Frame, width: int, height: int) -> Canvas:
        canvas = super().cells(frame, width, height)
        canvas.text(1, 0, f"{self._letter:<7}", Role.MARKER, BOLD, bg=Role.SURFACE)
        return canvas


class _Side(Vertical):
    """One run's panes."""

    def __init__(self, name: str, letter: str) -> None:
        super().__init__(id=name)
        self._letter = letter

    def compose(self) -> ComposeResult:
        yield _SideTitle(self._letter)
        yield MapPane()
        yield HeatPane()
        yield WaterfallPane()
        yield TextPane()
        yield BudgetPane()
        yield ActionsPane()
        yield InspectorPane()


class DiffApp(InspectorApp):
    """Two finished or growing traces. The longer one leads; the other follows its history.

    Time is the history: both sides show the state in which they had read the same tokens.

    Args:
        first, second: shown left (A) and right (B); the app closes neither.
    """

    TITLE = "mc-tui diff"
    BOXES: ClassVar = {"left": (1, 2, 3, 4, 5, 6), "right": (1, 2, 3, 4, 5, 6)}

    def __init__(
        self,
        first: Source,
        second: Source,
        *,
        clock: Callable[[], float] = time.monotonic,
        ticking: bool = True,
        theme: str = "mc-dark",
        unhurried: bool = False,
    ) -> None:
        longer = first if first.num_tokens >= second.num_tokens else second
        super().__init__(longer, clock=clock, ticking=ticking, theme=theme, unhurried=unhurried)
        other = Session(second if longer is first else first, clock, unhurried=unhurried)
        self.sessions = (self.session, other) if longer is first else (other, self.session)

    def compose(self) -> ComposeResult:
        with Horizontal(id="body", classes="diff"):
            yield _Side("left", "A")
            yield _Side("right", "B")
        yield DifferencePane("A" if self.session is self.sessions[0] else "B")
        yield StoryLine()
        yield Scrubber()
        yield Footer(compact=True, show_command_palette=False)

    def redraw(self) -> None:
        """Bring the other side to the same history, then draw both."""
        if not self.laid_out:
            return
        follower = self.sessions[1] if self.session is self.sessions[0] else self.sessions[0]
        self._align(follower)
        before, frame = self._frame, self.session.frame()
        self._frame = frame
        other = follower.frame()
        pair = (frame, other) if self.session is self.sessions[0] else (other, frame)
        self._arrange(frame, before)
        base = self.screen_stack[0]
        for name, side in zip(("left", "right"), pair, strict=True):
            for pane in base.query(f"#{name} Pane").results(Pane):
                pane.show(side)
        difference = base.query_one(DifferencePane)
        difference.other = pair[1]
        difference.show(pair[0])
        base.query_one(StoryLine).show(frame)
        base.query_one(Scrubber).show(frame)
        if before is None or before.status != frame.status:
            self.refresh_bindings()

    def _align(self, follower: Session) -> None:
        """Seek the other run to where it had read the same tokens, and to the same round there."""
        follower.source.refresh()
        place = same_moment(
            self.session.source.scalars.history,
            self.session.playback.position,
            follower.source.scalars.history,
        )
        follower.play(lambda play: play.grow(follower.source.num_rows).seek(place))
        window = self.session.view.window.fit(self.session.history)
        follower.view = replace(self.session.view, window=window)
        follower.pinned = True
        follower.tick()


def same_moment(leader: I64, position: int, follower: I64) -> int:
    """The follower's row at the leader's row ``position``: tokens read first, then the round.

    Where the follower has no row with just as many tokens, its last one with fewer.
    """
    if not len(leader):
        return 0
    tokens = leader[position]
    rounds = position - int(np.searchsorted(leader, tokens, "left"))
    first, stop = (int(np.searchsorted(follower, tokens, side)) for side in ("left", "right"))
    return min(first + rounds, stop - 1) if first < stop else max(first - 1, 0)
