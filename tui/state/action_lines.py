"""Lines of the action list, what they are picked from, and what they must match."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from megacontext.traces.vitals import CHANGE_DTYPE
from megacontext.tui.render.marks import REASON_WORDS
from megacontext.tui.sources.row_model import I64, RowModel
from megacontext.tui.state.view import Node

__all__ = ["FILTER_HELP", "LogFilter", "LogLine", "LogView", "changes_in", "line_ids"]

FILTER_HELP = (
    '+ − ✗ · forced · a reason (swap, budget, …) · L1@47 · else text of the block, "quoted"'
)
_NODE = re.compile(r"[lL](\d{1,2})@(\d{1,15})")
_SIGNS = {"+": 0, "-": 1, "−": 1}
_REFUSED = ("✗", "x")


@dataclass(frozen=True)
class LogFilter:
    """What a line must be: parts that are None or empty let everything through."""

    kind: int | None = None
    refused: bool | None = None
    forced: bool = False
    reason: int | None = None
    node: Node | None = None
    text: str = ""

    @classmethod
    def parse(cls, filter_text: str) -> LogFilter:
        """From words: signs, a reason, a node; what is none of these is text of the block."""
        fields: dict[str, object] = {}
        words: list[str] = []
        reasons = {name: reason for reason, name in REASON_WORDS.items()}
        for word in re.findall(r'"[^"]*"|\S+', filter_text.replace("not re-armed", "not-re-armed")):
            node = _NODE.fullmatch(word)
            if word in _SIGNS:
                fields |= {"kind": _SIGNS[word], "refused": fields.get("refused", False)}
            elif word.lower() in _REFUSED:
                fields["refused"] = True
            elif word.lower() == "forced":
                fields["forced"] = True
            elif node and int(node[1]) >= 1:
                fields["node"] = Node(int(node[1]), int(node[2]))
            elif word.lower().replace("-", " ", 1) in reasons or word.lower() in reasons:
                name = word.lower()
                fields["reason"] = reasons.get(name, reasons.get(name.replace("-", " ", 1)))
            else:
                words.append(word.strip('"'))
        return cls(**fields, text=" ".join(words))  # type: ignore[arg-type]

    def matches(self, changes: np.ndarray, hits: I64, block_size: int) -> I64:
        """Places in ``changes`` that pass, ascending; ``hits`` are tokens where the text is."""
        mask = np.ones(len(changes), bool)
        if self.kind is not None:
            mask &= changes["kind"] == self.kind
        if self.refused is not None:
            mask &= changes["applied"] != self.refused
        if self.forced:
            mask &= changes["forced"]
        if self.reason is not None:
            mask &= changes["reason"] == self.reason
        if self.node is not None:
            mask &= (changes["level"] == self.node.level) & (changes["index"] == self.node.index)
        if self.text:
            width = block_size ** changes["level"].astype(np.int64)
            low = np.searchsorted(hits, changes["index"] * width)
            mask &= np.searchsorted(hits, (changes["index"] + 1) * width) > low
        records: I64 = np.flatnonzero(mask)
        return records


class LogLine(NamedTuple):
    """One line of the list. ``id`` is that of :func:`line_ids`."""

    id: int
    row: int
    step: int
    kind: int
    node: Node
    score: float
    reason: int
    applied: bool
    forced: bool
    current: bool
    words: str = ""
    partners: tuple[Node, ...] = ()


@dataclass(frozen=True)
class LogView:
    """The lines from the one on top on.

    Attributes:
        total: lines that pass the filter in all.
        top: how many of them are newer than the first one here.
        cursor: id of the chosen line, None where the list follows the present row.
        complete: every block's words were read.
        rank: how many lines are newer than the chosen one, or than the first one here.
    """

    lines: tuple[LogLine, ...] = ()
    total: int = 0
    top: int = 0
    cursor: int | None = None
    filter: str = ""
    complete: bool = True
    rank: int = 0


_IDS_PER_ROW = 1 << 24


def line_ids(changes: np.ndarray) -> I64:
    """I64[changes]: a number for each, ascending, that does not depend on which others are known.

    A run's changes are read piece by piece, so their places among those known move.
    """
    rows = changes["row"].astype(np.int64)
    within_row = np.arange(len(rows)) - np.searchsorted(rows, rows, "left")
    ids: I64 = rows * _IDS_PER_ROW + within_row
    return ids


def changes_in(rows: Sequence[RowModel]) -> np.ndarray:
    """The changes of ``rows`` in the order of :class:`megacontext.traces.vitals.Vitals`."""
    records: list[tuple[object, ...]] = []
    for row in rows:
        here: list[tuple[object, ...]] = [
            (row.number, a.kind, a.node.level, a.node.index, a.score, a.reason, a.forced, True)
            for a in row.actions
        ]
        here += [
            (row.number, r.kind, r.node.level, r.node.index, r.score, r.reason, False, False)
            for r in row.refused
        ]
        records += here[::-1]
    return np.array(records, CHANGE_DTYPE)
