"""The viewer's state and what its commands do to it; knows sources, not widgets.

``Session.frame()`` builds the immutable frame that all panes draw. Nothing here depends on
Textual, so every command can be tested without a terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from megacontext.tui.conversation import Conversation
from megacontext.tui.focus import latest, neighbour, reaction
from megacontext.tui.frame import Frame, Marker, Run, RunInfo, Series, Trail
from megacontext.tui.life import LifeScan, NodeLife
from megacontext.tui.model import RowModel
from megacontext.tui.playback import Playback
from megacontext.tui.source import Source
from megacontext.tui.spans import text_span
from megacontext.tui.view import Node, ViewState

__all__ = ["Session"]

NOTICE_S = 6.0
"""How long a notice stands before the story goes on."""
TRAIL_ROWS = 160
"""Rows of the past that a frame carries: more than any waterfall shows."""


@dataclass(frozen=True)
class _Slices:
    """Time that one frame or tick may spend on reading, seconds."""

    frame_s: float = 0.005
    life_s: float = 0.02
    vitals_s: float = 0.04
    opening_s: float = 0.2


class Session:
    """One viewer on one source.

    Args:
        source: where rows come from.
        clock: seconds, for playback and for reading no longer than a frame allows.
        unhurried: read everything a frame wants at once (tests, exports, comparisons).
    """

    def __init__(
        self,
        source: Source,
        clock: Callable[[], float] = time.monotonic,
        *,
        unhurried: bool = False,
    ) -> None:
        self.source = source
        self.clock = clock
        self.slices = _Slices(math.inf, math.inf, math.inf, math.inf) if unhurried else _Slices()
        status = source.status()
        self._generation = 0
        self.view = ViewState()
        self.last_find = ""
        self._notice, self._noticed = "", clock()
        self.talk = Conversation(source)
        self.pinned = False  # another session sets the window, as it is
        self.mine: list[Marker] = []
        self._scan: LifeScan | None = None
        self._problem = ""
        self._ticked = clock()
        self.playback = Playback().grow(source.num_rows)
        if status.growing:
            self.playback = self.playback.end()
        elif source.num_rows:
            self._open_where_it_moves()

    def _open_where_it_moves(self) -> None:
        """A finished run opens on what its first question led to, else where most moved."""
        for marker in self.source.scalars.markers:
            if marker.label.lower().startswith("question"):
                answer = reaction(self.source, self.source.row(marker.row))
                if answer is not None:
                    self.playback = self.playback.seek(answer[0].number)
                    self.view = self.view.select(answer[1].node)
                    return
        deadline = self.clock() + self.slices.opening_s
        self.source.read_vitals(lambda: self.clock() > deadline)
        voluntary = self.source.vitals().voluntary
        self.seek(int(voluntary.argmax()) if len(voluntary) else 0)
        act = self.source.row(self.playback.position).latest_action()
        if act is not None and len(voluntary) and voluntary.any():
            self.view = self.view.select(act.node)

    @property
    def notice(self) -> str:
        """What the story line says instead of its story, for a few seconds."""
        return self._notice

    @notice.setter
    def notice(self, said: str) -> None:
        self._notice, self._noticed = said, self.clock()

    # -- time ---------------------------------------------------------------------------------
    def tick(self) -> bool:
        """Take in new rows, let time pass; True when the screen may look different."""
        now = self.clock()
        elapsed, self._ticked = now - self._ticked, now
        changed = self.source.refresh()
        if self.source.num_rows < self.playback.count:
            self._start_over()
        before = self.playback
        known, self._problem = self._problem, self.source.status().problem
        if (before.count == 0 and self.source.num_rows) or self._problem not in ("", known):
            self.notice = ""  # nothing is waited for any more, and a new problem is said at once
        grown = before.grow(self.source.num_rows)
        self.playback = grown.tick(elapsed, finished=not self.source.status().growing)
        answers = self.source.control.answers() if self.source.control is not None else []
        if answers:
            self.notice = " ".join(answers)
        if self.row is not None and self._notice and now - self._noticed > NOTICE_S:
            self.notice, changed = "", True
        changed = self._follow_question() or self.talk.changed() or changed
        read = self._read_vitals()
        return self._read_life() or read or changed or bool(answers) or self.playback != before

    def _start_over(self) -> None:
        """Another, shorter trace has taken the file's name: show that one from its end."""
        self.playback = Playback(speed=self.playback.speed).grow(self.source.num_rows).end()
        self.view, self._scan, self.mine = ViewState(), None, []
        self._generation += 1
        self.notice = "Another run has taken this trace's name; this is its newest step."

    def _read_vitals(self) -> bool:
        """Spend this tick's share on what the rows were like; True when something was read."""
        before = self.source.vitals().num_rows
        if before >= self.source.num_rows:
            return False
        share = self.slices.life_s if self.playback.following else self.slices.vitals_s
        deadline = self.clock() + share
        self.source.read_vitals(lambda: self.clock() > deadline)
        return self.source.vitals().num_rows != before

    def _read_life(self) -> bool:
        """Spend this tick's share on the selected node's life; True when something was read."""
        node, count = self.view.node, self.source.num_rows
        if node is None or not count:
            return False
        if self._scan is None or self._scan.node != node:
            self._scan = LifeScan(node, self.playback.position, self.source.look)
        known = self._scan.known
        deadline = self.clock() + self.slices.life_s
        self._scan.advance(count, lambda: self.clock() > deadline)
        return self._scan.known != known

    @property
    def only_follows(self) -> bool:
        """Whether all there is to do is to show rows as they arrive."""
        node, scan, count = self.view.node, self._scan, self.source.num_rows
        read = node is None or (scan is not None and scan.node == node and scan.covers(count))
        read = read and not self.talk.streaming and not self._notice
        return read and self.playback.following and self.source.status().growing

    # -- the frame ----------------------------------------------------------------------------
    @property
    def row(self) -> RowModel | None:
        """The row on screen."""
        return self.source.row(self.playback.position) if self.source.num_rows else None

    @property
    def info(self) -> RunInfo:
        """The run's settings as they were in force at the row on screen."""
        changes = [info for row, info in self.source.scalars.knobs if row <= self.playback.position]
        return changes[-1] if changes else self.source.info

    @property
    def history(self) -> int:
        row = self.row
        return row.history if row else 0

    @property
    def markers(self) -> tuple[Marker, ...]:
        """Recorded markers and a person's own, by row."""
        return tuple(sorted([*self.source.scalars.markers, *self.mine], key=lambda m: m.row))

    def frame(self) -> Frame:
        """The frame of this moment. ``frame().trail.complete`` is False while rows are unread."""
        row, scalars = self.row, self.source.scalars
        view = self.view
        if not self.pinned:
            view = self.view = replace(view, window=view.window.fit(row.history if row else 0))
        count = len(scalars.step)
        trail = self._trail()
        return Frame(
            row=row,
            view=view,
            playback=self.playback,
            status=self.source.status(),
            info=self.info,
            series=self._series(trail),
            trail=trail,
            markers=self.markers,
            text=None if row is None else text_span(self.source, row, view),
            life=self._life(),
            first_step=int(scalars.step[0]) if count else 0,
            last_step=int(scalars.step[-1]) if count else 0,
            notice=self.notice,
            turns=self.talk.turns(),
            run=self.run(),
        )

    def run(self) -> Run:
        """All rows known so far."""
        s = self.source.scalars
        return Run(
            s.step, s.history, s.heat, s.latency_us, s.drift, self.source.vitals(), self._generation
        )

    def _life(self) -> NodeLife | None:
        if self._scan is None or self._scan.node != self.view.node:
            return None
        return self._scan.life(self.source.num_rows)

    def _series(self, trail: Trail) -> Series:
        if not len(trail):
            return Series()
        run = slice(int(trail.numbers[0]), int(trail.numbers[-1]) + 1)
        rows, s = trail.rows, self.source.scalars
        unread = math.nan
        return Series(
            np.array([unread if row is None else row.nll for row in rows]),
            np.array([unread if row is None else row.swap for row in rows]),
            np.array([unread if row is None else row.residency for row in rows]),
            s.latency_us[run],
            s.drift[run],
        )

    def _trail(self) -> Trail:
        stop = min(self.playback.position + 1, self.source.num_rows)
        first = max(stop - TRAIL_ROWS, 0)
        # A view that follows draws less often: it has to catch up with all that came meanwhile.
        following = self.playback.following
        deadline = self.clock() + (self.slices.life_s if following else self.slices.frame_s)
        rows: list[RowModel | None] = []
        for number in range(stop - 1, first - 1, -1):
            late = self.clock() > deadline
            rows.append(self.source.cached(number) if late else self.source.row(number))
        rows.reverse()
        s = self.source.scalars
        return Trail(
            np.arange(first, stop, dtype=np.int64),
            s.history[first:stop],
            s.heat[first:stop],
            tuple(rows),
            complete=all(row is not None for row in rows),
        )

    # -- commands -----------------------------------------------------------------------------
    def play(self, change: Callable[[Playback], Playback]) -> None:
        """Apply one transition of the playback machine."""
        self.playback = change(self.playback)

    def seek(self, row: int) -> None:
        """Go to ``row`` and stay there."""
        self.playback = replace(self.playback.seek(row), playing=False)

    def step_of(self, row: int) -> int:
        """The refocus step of ``row``."""
        return int(self.source.scalars.step[row])

    def toggle_play(self) -> None:
        growing = self.source.status().growing
        self.play(Playback.resume_live if growing else Playback.toggle_play)

    def look(self, change: Callable[[ViewState], ViewState]) -> None:
        """Apply one transition of the view."""
        self.view = change(self.view)

    def zoom(self, factor: float, at: float | None = None) -> None:
        node = self.view.node
        if at is None and node is not None and self.row is not None:
            start, stop = node.span(self.row.block_size)
            middle = (start + stop) / 2
            window = self.view.window
            at = middle if window.start <= middle <= window.stop else None
        self.view = replace(self.view, window=self.view.window.zoom(factor, self.history, at))

    def pan(self, share: float) -> None:
        self.view = replace(self.view, window=self.view.window.pan(share, self.history))

    def select_at(self, token: int) -> None:
        """Select the frontier node that covers ``token`` (nothing in the tail)."""
        row = self.row
        place = row.after.at(token) if row else -1
        self.view = self.view.select(row.after.node(place) if row and place >= 0 else None)

    def select_neighbour(self, direction: int) -> None:
        """Select the next (+1) or previous (-1) frontier node; the newest one to start with."""
        row = self.row
        if row is None or not len(row.after.levels):
            return
        node, place = self.view.node, len(row.after.levels) - 1
        if node is not None:
            _, here = row.after.state(node)
            place = min(max((here if here >= 0 else place) + direction, 0), place)
        self._select_and_show(row.after.node(place))

    def _select_and_show(self, node: Node) -> None:
        row = self.row
        self.view = self.view.select(node)
        if row is None:
            return
        start, stop = node.span(row.block_size)
        window = self.view.window
        if start < window.start or stop > window.stop:
            middle = (start + stop) / 2
            moved = replace(window, start=middle - window.span / 2, stop=middle + window.span / 2)
            self.view = replace(self.view, window=moved.fit(row.history))

    def focus_latest(self) -> None:
        """Select the latest action's node and put it into the middle.

        On a marker's row this is what followed the marker: the most detailed expansion among the
        rounds of that step, or the first one within the next rows.
        """
        row = self.row
        found = reaction(self.source, row) if row is not None else None
        found = found or latest(self.source, self.playback.position)
        if found is None:
            self.notice = "No action at or before this step."
            return
        there, act = found
        self.playback = replace(self.playback.seek(there.number), playing=False)
        self.centre(act.node)

    def centre(self, node: Node) -> None:
        """Select ``node`` and show it among its neighbours."""
        row = self.row
        if row is None:
            return
        start, stop = node.span(row.block_size)
        span = stop - start
        window = self.view.window.around(start, stop, row.history, margin=max(8.0, 512 / span))
        self.view = replace(self.view.remember().select(node), window=window)

    def drill(self) -> None:
        if self.view.node is None:
            self.focus_latest()
        elif self.row is not None:
            self.view = self.view.drill(self.history, self.row.block_size)

    def to_action(self, direction: int) -> None:
        """Go to the next (+1) or previous (-1) row with an action, on the selection if any."""
        node = self.view.node
        number = neighbour(self.source, node, self.playback.position, direction)
        if number is not None:
            self.playback = replace(self.playback.seek(number), playing=False)
            return
        what = f"action on {node}" if node else "action"
        self.notice = f"No {'later' if direction > 0 else 'earlier'} {what}."

    def to_marker(self, direction: int) -> None:
        rows = sorted({m.row for m in self.markers})
        if not rows:
            self.notice = "No markers in this run; m sets one here."
            return
        self.playback = (
            self.playback.next_of(rows) if direction > 0 else self.playback.previous_of(rows)
        )

    def scroll_text(self, lines: int) -> None:
        """Scroll the text down; the newest tokens are shown from their end, so up from there."""
        lines = lines if self.view.node is not None else -lines
        self.view = replace(self.view, scroll=max(self.view.scroll + lines, 0))

    def set_marker(self) -> None:
        """Mark this row; where an engine listens, the mark goes into its trace too."""
        row = self.row
        if row is None:
            return
        if self.source.control is not None:
            self.source.control.marker("mark")
            self.notice = "Mark sent; it appears with the next row."
            return
        here = Marker(row.number, f"mark {len(self.mine) + 1}", mine=True)
        self.mine = [m for m in self.mine if m.row != row.number] or []
        self.mine.append(here)
        self.notice = f"Marked step {row.step:,}."

    def search(self, text: str, direction: int = 1) -> None:
        """Find ``text`` from the selection on, wrapping, and select the block that holds it."""
        self.view = replace(self.view, needle=text)
        row = self.row
        if row is None or not text:
            return
        node = self.view.node
        here = node.span(row.block_size) if node else (0, 0)
        if direction > 0:
            hit = self.source.find(text, here[1] if node else 0) or self.source.find(text, 0)
        else:
            last = self.source.num_tokens
            hit = self.source.rfind(text, here[0]) or self.source.rfind(text, last)
        if hit is None:
            self.notice = f"{text!r} does not occur in the history."
            return
        if hit[0] >= row.history:
            self.seek_token(hit[1])
        self.centre(Node(1, hit[0] // row.block_size))
        self.notice = f"{text!r} found at token {hit[0]:,}."

    def seek_token(self, token: int) -> None:
        """Go to the first row whose history includes ``token``."""
        place = int(np.searchsorted(self.source.scalars.history, token, "left"))
        self.playback = replace(self.playback.seek(place), playing=False)

    # -- the conversation ---------------------------------------------------------------------
    def ask(self, question: str) -> None:
        """Send a question; the view follows what it expands once that has arrived."""
        if self.source.control is not None:
            self.source.control.ask(question)
            self.talk.expect()
            self.view = replace(self.view, talking=True)
            self.notice = "Asked: the view follows what the question opens; the answer streams in."

    def _follow_question(self) -> bool:
        """Show the refocus of the question that was asked here, when its row has arrived."""
        span = self.talk.arrived()
        if span is not None:
            self.show_turn(span.row)
            self.notice = ""
        return span is not None

    def show_turn(self, number: int) -> None:
        """Go to the refocus of a question, and to the finest node that it expanded."""
        self.playback = replace(self.playback.seek(number), playing=False)
        self.view = replace(self.view, talking=True)
        row = self.row
        expanded = reaction(self.source, row) if row is not None else None
        if expanded is not None:
            there, act = expanded
            self.playback = self.playback.seek(there.number)
            self.centre(act.node)
