"""The action list: every action and every refusal of a run, newest first, filtered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from megacontext.traces.schema import Reason
from megacontext.tui.sources.row_model import I64, RowModel, partners
from megacontext.tui.sources.source import Source
from megacontext.tui.state.action_lines import LogFilter, LogLine, LogView, changes_in, line_ids
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
    _matches: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    _ids: I64 = field(default_factory=lambda: np.empty(0, np.int64))
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

    def _matching(self, changes: np.ndarray, filter_text: str) -> I64:
        last = (int(changes["row"][0]), int(changes["row"][-1])) if len(changes) else ()
        key = (filter_text, len(changes), *last)
        if key != self._key:
            log_filter, hits = LogFilter.parse(filter_text), np.empty(0, np.int64)
            if log_filter.text:
                hits = self.source.find_all(log_filter.text, MAX_HITS)[:, 0]
            self._matches = log_filter.matches(changes, hits, self.source.info.block_size)
            self._ids = line_ids(changes)[self._matches]
            self._key = key
        return self._matches

    def view(
        self,
        position: int,
        rows: Sequence[RowModel | None],
        view: ViewState,
        enough: Callable[[], bool],
    ) -> LogView:
        """The lines around the cursor, or from the row at ``position`` down."""
        changes = self._changes(rows)
        matches = self._matching(changes, view.log_filter)
        newest = int(np.searchsorted(changes["row"][matches], position, "right"))
        top = len(matches) - newest if view.log_at is None else self._rank(view.log_top)

        # As many lines as a pane may show, with the words of their blocks.
        shown = matches[: len(matches) - top][::-1][:LINES]
        complete, lines = True, []
        ids = self._ids[: len(matches) - top][::-1][:LINES]
        for index, line_id in zip(shown.tolist(), ids.tolist(), strict=True):
            line = self._line(changes, index, position)._replace(id=line_id)
            words = self._words_of(line.node, read=not enough())
            complete &= words is not None
            lines.append(line._replace(words=words or ""))
        return LogView(
            tuple(lines),
            len(matches),
            top,
            view.log_at,
            view.log_filter,
            complete,
            top if view.log_at is None else self._rank(view.log_at),
        )

    def _rank(self, line_id: int | None) -> int:
        """How many of the lines that match are newer than ``line_id``."""
        if line_id is None:
            return 0
        return len(self._ids) - int(np.searchsorted(self._ids, line_id, "right"))

    def moved(self, shown: LogView, view: ViewState, by: int, page: int) -> ViewState:
        """``view`` with the cursor ``by`` lines further down on a page of ``page`` lines."""
        ids = self._ids
        if not len(ids):
            return view
        top, last = shown.top, len(ids) - 1
        here = min(top, last) - (by > 0) if view.log_at is None else self._rank(view.log_at)
        rank = min(max(here + by, 0), last)

        # The cursor stays on the page, and the page is full where there are that many lines.
        page = max(page, 1)
        top = min(max(top, rank - page + 1), rank, max(last + 1 - page, 0))
        return view.at_line(int(ids[last - rank]), int(ids[last - top]))

    def _line(self, changes: np.ndarray, index: int, position: int) -> LogLine:
        c = changes[index]
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
            index, row, step, int(c["kind"]), node, float(c["score"]), int(c["reason"]),
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
