"""The viewer's state and the frame that shows it; what commands do to it is in `viewer.py`.

``FrameBuilder.frame()`` builds the immutable frame that all panes draw. Nothing here depends on
Textual, so every command can be tested without a terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from megacontext.tui.sources.node_history import LifeReader, NodeLife
from megacontext.tui.sources.row_model import F64, I64, RowModel, swap_rates
from megacontext.tui.sources.source import Source
from megacontext.tui.state.action_lines import LogView
from megacontext.tui.state.action_log import ActionLog
from megacontext.tui.state.action_navigation import reaction
from megacontext.tui.state.conversation import Conversation
from megacontext.tui.state.frame import Frame, Marker, Run, RunInfo, Series, Trail
from megacontext.tui.state.mark_file import MarkFile
from megacontext.tui.state.playback import Playback
from megacontext.tui.state.score_explanation import ScoreExplanation, bm25, recorded
from megacontext.tui.state.text_span import text_span
from megacontext.tui.state.view import Node, ViewState

__all__ = ["MAX_HITS", "FrameBuilder"]

NOTICE_S = 6.0
"""How long a notice stands before the story goes on."""
TRAIL_ROWS = 160
"""Rows of the past that a frame carries: more than any waterfall shows."""


MAX_HITS = 10_000
HITS_AGAIN = 512
"""Tokens by which a growing history has to grow before it is searched again."""


@dataclass(frozen=True)
class _Slices:
    """Time that one frame or tick may spend on reading, seconds."""

    frame_s: float = 0.005
    life_s: float = 0.02
    vitals_s: float = 0.04
    opening_s: float = 0.2


class FrameBuilder:
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
        self.reads_ahead = False  # whoever owns this reads the vitals between ticks
        self.explaining = False  # the inspector is on screen beside everything else
        self._explained: tuple[tuple[int, Node] | None, ScoreExplanation | None] = None, None
        self._hits: I64 = np.empty((0, 2), np.int64)
        self._hits_key: tuple[str, int] = ("", 0)
        self.last_hit = -1
        self._below: Node | None = None

        # What a person looks at, and what was said to them.
        self.log = ActionLog(source)
        self.view = ViewState()
        self.last_find = ""
        self._notice, self._noticed = "", clock()
        self.talk = Conversation(source)
        self.pinned = False  # another session sets the window, as it is
        self.marks = MarkFile.read(source.path)
        self._scan: LifeReader | None = None
        self._problem = ""
        self.notice = self.marks.problem

        # A growing run opens at its end, a finished one where most is to be seen.
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
    def notice(self, message: str) -> None:
        self._notice, self._noticed = message, self.clock()

    # -- time ---------------------------------------------------------------------------------
    def tick(self) -> bool:
        """Take in new rows, let time pass; True when the screen may look different."""
        now = self.clock()
        elapsed, self._ticked = now - self._ticked, now
        changed = self.source.refresh()
        if self.source.num_rows < self.playback.count:
            self._start_over()
        before = self.playback
        status = self.source.status()
        known, self._problem = self._problem, status.problem
        arrived = before.count == 0 and (self.source.num_rows or status.waits)
        if arrived or self._problem not in ("", known):
            self.notice = ""  # nothing is waited for any more, and a new problem is said at once

        # Time passes, the engine's answers come, notices go.
        grown = before.grow(self.source.num_rows)
        self.playback = grown.tick(elapsed, finished=not self.source.status().growing)
        answers = self.source.control.answers() if self.source.control is not None else []
        if answers:
            self.notice = " ".join(answers)
        if self.row is not None and self._notice and now - self._noticed > NOTICE_S:
            self.notice, changed = "", True

        # Whatever is left of this tick goes into reading.
        changed = self._follow_question() or self.talk.changed() or changed
        read = not self.reads_ahead and self._read_vitals()
        if not self.reads_ahead or self.view.inspecting:  # else the whole run comes first
            read |= self._explain()
            read |= self._read_life()
        self._read_trail()
        return read or changed or bool(answers) or self.playback != before

    def _follow_question(self) -> bool:
        """Show the refocus of a question that was asked here; True when the view moved."""
        return False

    def _start_over(self) -> None:
        """Another, shorter trace has taken the file's name: show that one from its end."""
        self.playback = Playback(speed=self.playback.speed).grow(self.source.num_rows).end()
        self.view, self._scan, self.marks = ViewState(), None, MarkFile(self.source.path)
        self._generation += 1
        self.log = ActionLog(self.source)
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

    def read_ahead(self) -> bool:
        """Read on for a moment what rows were like; True when all of it is known."""
        deadline = self.clock() + self.slices.life_s
        return self.source.read_vitals(lambda: self.clock() > deadline)

    def _explain(self) -> bool:
        """Find out where the selected node's score comes from; True when that is news."""
        row, node = self.row, self.view.node
        looking = self.explaining or self.view.inspecting or self.view.maximized == 6
        if row is None or node is None or not looking or row.damaged:
            return False
        key = row.number, node
        if key == self._explained[0]:
            return False

        # What the lens recorded wins over what is computed here.
        pairs = self.source.recorded_pairs(row.number, node)
        if pairs:
            result = recorded(node, pairs, row.block_size)
        else:
            deadline = self.clock() + self.slices.life_s
            index = self.source.token_index(lambda: self.clock() > deadline)
            if index is None:
                return False
            result = bm25(index, row, node, self.info.query_tokens)

        # The words of the tokens that met.
        tokens = {t for pair in result.pairs for t in (pair.query_token, pair.block_token)}
        texts = tuple((t, "".join(self.source.pieces(t, t + 1)[0])) for t in sorted(tokens))
        self._explained = key, replace(result, texts=texts)
        return True

    def _read_life(self) -> bool:
        """Spend this tick's share on the selected node's life; True when something was read."""
        node, count = self.view.node, self.source.num_rows
        if node is None or not count:
            return False
        if self._scan is None or self._scan.node != node:
            self._scan = LifeReader(node, self.playback.position, self.source.look)
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
        return tuple(sorted([*self.source.scalars.markers, *self.marks.marks], key=lambda m: m.row))

    def frame(self) -> Frame:
        """The frame of this moment. ``frame().trail.complete`` is False while rows are unread."""
        row, scalars = self.row, self.source.scalars
        view = self.view
        if not self.pinned:
            view = self.view = replace(view, window=view.window.fit(row.history if row else 0))

        # Everything that was read so far, as one value.
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
            log=self._log_view(trail),
            hits=self.hits(),
            explanation=self._explained[1]
            if row is not None and self._explained[0] == (row.number, view.node)
            else None,
        )

    def hits(self) -> I64:
        """Tokens [a, b) where the text last searched for is; all of the run, by token."""
        key = (self.view.needle, self.source.num_tokens)
        if key != self._hits_key:
            none = np.empty((0, 2), np.int64)
            needle, tokens = key
            grown = needle == self._hits_key[0] and tokens - self._hits_key[1] < HITS_AGAIN
            if not needle:
                self._hits, self._hits_key = none, key
            elif not grown or not self._hits_key[1]:
                self._hits, self._hits_key = self.source.find_all(needle, MAX_HITS), key
        return self._hits

    def _log_view(self, trail: Trail) -> LogView:
        deadline = self.clock() + (self.slices.frame_s if trail.complete else 0.0)
        return self.log.view(
            self.playback.position, trail.rows, self.view, lambda: self.clock() >= deadline
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
        rows, s, vitals = trail.rows, self.source.scalars, self.source.vitals()

        def lane(name: str) -> F64:
            """From the vitals where they were read, else from the rows that were."""
            read: F64 = getattr(vitals, name)[run].astype(np.float64)
            if len(read) == len(rows):
                return read
            if name == "swap":
                return np.concatenate([read, swap_rates(rows)[len(read) :]])
            late = [math.nan if r is None else getattr(r, name) for r in rows[len(read) :]]
            return np.concatenate([read, np.array(late, np.float64)])

        return Series(
            lane("nll"),
            lane("swap"),
            lane("residency"),
            s.latency_us[run],
            s.drift[run],
        )

    def _read_trail(self) -> None:
        """Spend this tick's share on the rows that the next frame's trail still lacks."""
        stop = min(self.playback.position + 1, self.source.num_rows)
        deadline = self.clock() + self.slices.life_s
        for number in range(stop - 1, max(stop - TRAIL_ROWS, 0) - 1, -1):
            if self.clock() > deadline:
                break
            if self.source.cached(number) is None:
                self.source.row(number)

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

    def seek(self, row: int) -> None:
        """Go to ``row`` and stay there."""
        self.playback = replace(self.playback.seek(row), playing=False)

    def step_of(self, row: int) -> int:
        """The refocus step of ``row``."""
        return int(self.source.scalars.step[row])
