"""The action list: every action and every refusal of a run, newest first, filtered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from megacontext.traces.schema import Reason
from megacontext.tui.sources.row_model import I64, RowModel, partners
from megacontext.tui.sources.source import Source
from megacontext.tui.state.action_lines import LogFilter, LogLine, LogView, changes_in
from megacontext.tui.state.view import Node, ViewState

__all__ = ["ActionLog"]

LINES = 64
"""Lines that a frame carries: more than any pane shows."""
WORD_TOKENS, WORD_CHARACTERS = 24, 100
MAX_HITS = 20_000


@dataclass
class ActionLog:
    """Filters and pages the changes of one source; keeps what the last filter let through."""

    source: Source
    _key: tuple[object, ...] = ()
    _places: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    _words: OrderedDict[Node, str] = field(default_factory=OrderedDict)

    def _changes(self, rows: Sequence[RowModel | None]) -> np.ndarray:
        """All changes known: where the vitals have not come so far, those of the last ``rows``."""
        vitals = self.source.vitals()
        late: list[RowModel] = []
        count = 0
        for row in reversed(rows):
            if count >= LINES or (row is not None and row.number < vitals.num_rows):
                break
            if row is not None:
                late.insert(0, row)
                count += len(row.actions) + len(row.refused)
        return np.concatenate([vitals.changes, changes_in(late)]) if late else vitals.changes

    def _matching(self, changes: np.ndarray, said: str) -> I64:
        last = (int(changes["row"][0]), int(changes["row"][-1])) if len(changes) else ()
        key = (said, len(changes), *last)
        if key != self._key:
            wanted, hits = LogFilter.parse(said), np.empty(0, np.int64)
            if wanted.text:
                hits = self.source.find_all(wanted.text, MAX_HITS)[:, 0]
            self._places = wanted.matches(changes, hits, self.source.info.block_size)
            self._key = key
        return self._places

    def view(
        self,
        position: int,
        rows: Sequence[RowModel | None],
        view: ViewState,
        enough: Callable[[], bool],
    ) -> LogView:
        """The lines around the cursor, or from the row at ``position`` down."""
        changes = self._changes(rows)
        places = self._matching(changes, view.log_filter)
        newest = int(np.searchsorted(changes["row"][places], position, "right"))
        top = len(places) - newest if view.log_at is None else self._rank(places, view.log_top)
        shown = places[: len(places) - top][::-1][:LINES]
        complete, lines = True, []
        for place in shown.tolist():
            line = self._line(changes, place, position)
            words = self._words_of(line.node, read=not enough())
            complete &= words is not None
            lines.append(line._replace(words=words or ""))
        return LogView(tuple(lines), len(places), top, view.log_at, view.log_filter, complete)

    @staticmethod
    def _rank(places: I64, place: int | None) -> int:
        """How many of ``places`` are newer than ``place``."""
        if place is None or not len(places):
            return 0
        return max(len(places) - int(np.searchsorted(places, place, "right")), 0)

    def moved(self, shown: LogView, view: ViewState, by: int, page: int) -> ViewState:
        """``view`` with the cursor ``by`` lines further down on a page of ``page`` lines."""
        places = self._places
        if not len(places):
            return view
        top = shown.top
        last = len(places) - 1
        here = min(top, last) - (by > 0) if view.log_at is None else self._rank(places, view.log_at)
        rank = min(max(here + by, 0), last)
        top = min(max(top, rank - max(page, 1) + 1), rank)
        at, first = int(places[last - rank]), int(places[last - min(top, last)])
        return view.at_line(at, first)

    def _line(self, changes: np.ndarray, place: int, position: int) -> LogLine:
        c = changes[place]
        row, node = int(c["row"]), Node(int(c["level"]), int(c["index"]))
        others: tuple[Node, ...] = ()
        if c["applied"] and c["reason"] == Reason.PAIR:
            low, high = np.searchsorted(changes["row"], [row, row + 1])
            acts = [a for a in changes[low:high][::-1] if a["applied"]]
            others = partners(
                [
                    (int(a["kind"]), Node(int(a["level"]), int(a["index"])), int(a["reason"]))
                    for a in acts
                ],
                node,
                int(c["kind"]),
            )

        # A row that has arrived a moment ago may have no step yet.
        steps = self.source.scalars.step
        step = int(steps[row]) if row < len(steps) else row
        return LogLine(
            place, row, step, int(c["kind"]), node, float(c["score"]), int(c["reason"]),
            bool(c["applied"]), bool(c["forced"]), row == position, "", others,
        )  # fmt: skip

    def _words_of(self, node: Node, *, read: bool) -> str | None:
        """The first words of ``node``; None where they are not known and not to be read now."""
        if node not in self._words:
            if not read:
                return None
            start, stop = node.span(self.source.info.block_size)
            pieces, _ = self.source.pieces(start, min(stop, start + WORD_TOKENS))
            self._words[node] = " ".join("".join(pieces).split())[:WORD_CHARACTERS]
            while len(self._words) > 50 * LINES:
                self._words.popitem(last=False)
        return self._words[node]
