"""Two traces side by side on one time axis: the same panes twice, and what differs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from megacontext.tui.app import InspectorApp
from megacontext.tui.palette import Role
from megacontext.tui.render.canvas import BOLD, Canvas
from megacontext.tui.render.difference import RunDifferences, draw_difference
from megacontext.tui.sources.source import Source
from megacontext.tui.state.frame import Frame
from megacontext.tui.state.run_comparison import (
    config_differences,
    next_difference,
    same_moment,
    texts_part_at,
)
from megacontext.tui.state.viewer import ViewerState
from megacontext.tui.widgets import (
    ActionsPane,
    BudgetPane,
    HeatPane,
    InspectorPane,
    KeyBar,
    MapPane,
    Pane,
    Scrubber,
    StoryLine,
    TextPane,
    TitleLine,
    TwoRunsPane,
    WaterfallPane,
)

__all__ = ["DiffApp", "DifferencePane"]


SEARCH_S = 1.5
"""Longest look for the next difference."""


class DifferencePane(Pane):
    """The strip of differences and the two runs' numbers."""

    number = 0

    def __init__(self) -> None:
        super().__init__()
        self.leader = "A"
        self.other: Frame | None = None
        self.differences = RunDifferences()

    def headings(self, frame: Frame) -> tuple[str, ...]:
        title = "Difference: who sees which part finer"
        leads = f"{self.leader} leads"
        return (f"{title} · {leads}: keys and the line below are about it", f"{title} · {leads}")

    def cells(self, frame: Frame, width: int, height: int) -> Canvas:
        return draw_difference((frame, self.other or frame), width, height, self.differences)


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
    COMPARES = True
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
        other = ViewerState(second if longer is first else first, clock, unhurried=unhurried)
        self.sessions = (self.session, other) if longer is first else (other, self.session)
        self._configs = config_differences(*(each.source.info for each in self.sessions))
        self._parted: int | None = None
        self._compared = 0

    def compose(self) -> ComposeResult:
        with Horizontal(id="body", classes="diff"):
            yield _Side("left", "A")
            yield _Side("right", "B")
        yield DifferencePane()
        yield StoryLine()
        yield TwoRunsPane()
        yield Scrubber()
        yield KeyBar(compact=True)

    @property
    def leader(self) -> str:
        """The letter of the run that keys are about."""
        return "A" if self.session is self.sessions[0] else "B"

    @property
    def follower(self) -> ViewerState:
        """The session that is brought to the leader's moment."""
        return self.sessions[1 if self.leader == "A" else 0]

    def _run_differences(self) -> RunDifferences:
        """Where the texts part, looked for once over what both have, and how the configs differ."""
        common = min(each.source.num_tokens for each in self.sessions)
        if self._parted is None and common > self._compared:
            sources = [each.source for each in self.sessions]
            self._parted = texts_part_at(sources[0], sources[1], self._compared)
            self._compared = common
        ended = {
            letter: each.source.num_tokens
            for letter, each in zip("AB", self.sessions, strict=True)
            if each.source.num_tokens < self.session.history
        }
        return RunDifferences(self._parted, tuple(self._configs), ended)

    def swap_leader(self) -> None:
        """Let keys and the story be about the other run, from the same moment on."""
        before, after = self.session, self.follower
        after.pinned, after.view = False, before.view
        self._session, self.source = after, after.source
        before.pinned = True
        self.session.notice = f"{self.leader} leads now: keys and this line are about it."

    def to_difference(self, direction: int) -> None:
        """Go to the nearest moment at which the two runs see the history otherwise than now."""
        deadline = self.session.clock() + SEARCH_S
        row, looked_at = next_difference(
            self.session.source,
            self.follower.source,
            self.session.playback.position,
            direction,
            lambda: self.session.clock() > deadline,
        )
        self.session.play(lambda play: replace(play.seek(looked_at), playing=False))
        if row is None:
            what = "later" if direction > 0 else "earlier"
            self.session.notice = f"No {what} difference up to here; the same key looks further."

    def tick(self) -> None:
        super().tick()
        source = self.follower.source
        if source.vitals().num_rows < source.num_rows:
            self.redraw()  # which lets the follower read on

    def redraw(self) -> None:
        """Bring the other side to the same history, then draw both."""
        if not self.laid_out:
            return
        follower = self.follower
        self._align(follower)
        before, frame = self._frame, self.session.frame()
        self._frame = frame
        other = follower.frame()

        # Each side gets its run's frame, what lies below gets the leader's or both.
        pair = (frame, other) if self.session is self.sessions[0] else (other, frame)
        self._arrange(frame, before)
        base = self.screen_stack[0]
        for name, side in zip(("left", "right"), pair, strict=True):
            for pane in base.query(f"#{name} Pane").results(Pane):
                pane.show(side)
        difference = base.query_one(DifferencePane)
        difference.other, difference.leader = pair[1], self.leader
        difference.differences = self._run_differences()
        difference.show(pair[0])
        base.query_one(StoryLine).show(frame)
        overview = base.query_one(TwoRunsPane)
        overview.other, overview.letters = other, ("A", "B") if self.leader == "A" else ("B", "A")
        overview.show(frame)
        base.query_one(Scrubber).show(frame)
        if before is None or before.status != frame.status:
            self.refresh_bindings()

    def _align(self, follower: ViewerState) -> None:
        """Seek the other run to where it had read the same tokens, and to the same round there."""
        follower.source.refresh()
        aligned_row = same_moment(
            self.session.source.scalars.history,
            self.session.playback.position,
            follower.source.scalars.history,
        )
        follower.play(lambda play: play.grow(follower.source.num_rows).seek(aligned_row))
        window = self.session.view.window.fit(self.session.history)
        follower.view = replace(self.session.view, window=window)
        follower.pinned = True
        follower.tick()
