"""What commands do to the viewer's state; knows sources, not widgets.

Nothing here depends on Textual, so every command can be tested without a terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from megacontext.tui.state.action_navigation import latest, neighbour, reaction
from megacontext.tui.state.frame_builder import MAX_HITS, FrameBuilder
from megacontext.tui.state.playback import Playback
from megacontext.tui.state.view import Node, ViewState

__all__ = ["ViewerState"]


class ViewerState(FrameBuilder):
    """One viewer on one source, and all that a person can do with it."""

    # -- commands -----------------------------------------------------------------------------
    def play(self, change: Callable[[Playback], Playback]) -> None:
        """Apply one transition of the playback machine."""
        self.playback = change(self.playback)

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
        index = row.after.at(token) if row else -1
        self.view = self.view.select(row.after.node(index) if row and index >= 0 else None)

    def select_neighbour(self, direction: int) -> None:
        """Select the next (+1) or previous (-1) frontier node; the newest one to start with."""
        row = self.row
        if row is None or not len(row.after.levels):
            return
        if direction == 0 and self.view.node is not None:
            return
        node, index = self.view.node, len(row.after.levels) - 1
        if node is not None:
            _, here = row.after.state(node)
            index = min(max((here if here >= 0 else index) + direction, 0), index)
        self._select_and_show(row.after.node(index))

    def select_parent(self) -> None:
        """Select the gist that covers the selected node, or that hides it."""
        row, node = self.row, self.view.node
        if row is None or node is None:
            self.select_neighbour(0)
            return
        parent = node.parent(row.block_size)
        if parent.span(row.block_size)[1] > row.history:
            self.notice = f"{node} has no complete gist above it yet."
            return
        self._below = node
        self._select_and_show(parent)

    def select_child(self) -> None:
        """Select the child that was come from, else the one with the highest score."""
        row, node = self.row, self.view.node
        if row is None or node is None:
            self.select_neighbour(0)
            return
        if node.level == 1:
            self.notice = f"{node} is a block: below it are its raw tokens (pane 4)."
            return
        size = row.block_size
        below = self._below
        if below is None or below.parent(size) != node:
            children = [Node(node.level - 1, node.index * size + i) for i in range(size)]
            below = max(children, key=lambda child: np.nan_to_num(row.score_of(child), nan=-2.0))
        self._select_and_show(below)

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
        target = reaction(self.source, row) if row is not None else None
        target = target or latest(self.source, self.playback.position)
        if target is None:
            self.notice = "No action at or before this step."
            return
        there, act = target
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

    def set_marker(self, name: str = "") -> None:
        """Mark the present row, or rename its mark; with an engine the mark goes into its trace.

        What follows a colon in ``name`` is a note: the story line shows it on that row.
        """
        row = self.row
        if row is None:
            return
        if self.source.control is not None:
            self.source.control.marker(name or "mark")
            self.notice = "Mark sent; it appears with the next row."
            return
        known = self.marks.at(row.number)
        name = name or (known.label if known else self.marks.unused_name())
        self.marks.put(row.number, row.step, name)
        self.notice = self.marks.problem or f"Marked step {row.step:,}; M removes the mark."

    def remove_marker(self) -> None:
        """Take a person's own mark on the present row away."""
        if self.marks.remove(self.playback.position):
            self.notice = self.marks.problem or "Mark removed."
        else:
            self.notice = "No mark of yours on this step; recorded markers stay."

    def search(self, text: str, direction: int = 1) -> None:
        """Find ``text`` from the last hit on, wrapping, and select the block that holds it."""
        again = text == self.view.needle and self.view.node is not None
        self.view = replace(self.view, needle=text)
        row = self.row
        if row is None or not text:
            return
        hits = self.hits()
        if not len(hits):
            self.notice = f"{text!r} does not occur in the history."
            return

        # Hits within one block are walked one by one: from the last hit, not from its block.
        node = self.view.node
        here = node.span(row.block_size) if node else (0, 0)
        last = self.last_hit if again and here[0] <= self.last_hit < here[1] else None
        if direction > 0:
            after = last if last is not None else here[1] - 1 if node else -1
            index = int(np.searchsorted(hits[:, 0], after, "right")) % len(hits)
        else:
            before = last if last is not None else here[0]
            index = int(np.searchsorted(hits[:, 0], before, "left")) - 1
        hit = int(hits[index, 0])
        if hit >= row.history:
            self.seek_token(int(hits[index, 1]))
        self.last_hit = hit
        self.centre(Node(1, hit // row.block_size))
        count = f"{len(hits):,}" + ("" if len(hits) < MAX_HITS else " or more")
        number = index % len(hits) + 1
        self.notice = f"{text!r}: hit {number:,} of {count}, at token {hit:,}."

    def seek_token(self, token: int) -> None:
        """Go to the first row whose history includes ``token``."""
        index = int(np.searchsorted(self.source.scalars.history, token, "left"))
        self.playback = replace(self.playback.seek(index), playing=False)

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
