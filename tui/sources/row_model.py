"""One trace row in the form the panes draw: arrays of spans, plain tuples of actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from megacontext.traces.schema import Reason
from megacontext.traces.state import spans_of
from megacontext.tui.state.view import Node

__all__ = ["STAGES", "Act", "Columns", "Refused", "RowModel", "Spans", "partners", "swap_rates"]

I8: TypeAlias = np.ndarray[Any, np.dtype[np.int8]]
I64: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
F32: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
F64: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

STAGES = ("gist", "lens", "alloc", "kv", "decode", "record")


class Act(NamedTuple):
    """One applied action; ``kind`` 0 expand, 1 collapse (see the trace schema)."""

    kind: int
    node: Node
    score: float
    cost: int
    forced: bool
    reason: int


class Refused(NamedTuple):
    """One candidate that was turned down."""

    kind: int
    node: Node
    score: float
    reason: int


def partners(acts: Sequence[tuple[int, Node, int]], node: Node, kind: int) -> tuple[Node, ...]:
    """The other half of a swap: what ``node``'s action pays for, or what paid for it.

    Args:
        acts: (kind, node, reason) of a row's actions in their order; collapses come before the
            expansion that they pay for.
        node, kind: the action of reason ``PAIR`` whose other half is wanted.
    """
    paid: list[Node] = []
    for other_kind, other, reason in acts:
        if reason != Reason.PAIR:
            continue
        if other_kind == 1:
            paid.append(other)
            continue
        if kind == 0 and other == node:
            return tuple(paid)
        if kind == 1 and node in paid:
            return (other,)
        paid = []
    return ()


@dataclass(frozen=True)
class Columns:
    """Per screen column: share of its tokens at LOD 0, 1, 2 and >= 3, and the best score."""

    share: F64  # [4, width]
    score: F64  # [width], NaN where nothing was scored
    parity: I64  # [width], index parity of the node under the column's middle
    wide: np.ndarray[Any, np.dtype[np.bool_]]  # [width], that node spans two columns or more


@dataclass(frozen=True)
class Spans:
    """A frontier as token spans, oldest first; ``bounds`` has one entry more than ``levels``."""

    levels: I8
    block_size: int

    @cached_property
    def bounds(self) -> I64:
        """Token positions between the nodes, [n + 1]; exact because the frontier tiles from 0."""
        out = np.zeros(len(self.levels) + 1, np.int64)
        np.cumsum(spans_of(self.levels, self.block_size), out=out[1:])
        return out

    def at(self, token: int) -> int:
        """Number of the frontier entry that covers ``token``, or -1 (tail or beyond)."""
        entry = int(np.searchsorted(self.bounds, token, "right")) - 1
        return entry if 0 <= entry < len(self.levels) else -1

    def node(self, entry: int) -> Node:
        """The tree node of frontier entry ``place``."""
        level = max(int(self.levels[entry]), 1)
        return Node(level, int(self.bounds[entry]) // self.block_size**level)

    def state(self, node: Node) -> tuple[str, int]:
        """How the model sees ``node``: "raw", "gist", "open" (finer parts), "inside" (a coarser
        gist) or "absent"; and the entry at its start (-1 when absent)."""
        entry = self.at(node.span(self.block_size)[0])
        if entry < 0:
            return "absent", -1
        level = int(self.levels[entry])
        if level == 0 and node.level == 1:
            return "raw", entry
        if level > node.level:
            return "inside", entry
        return ("gist" if level == node.level else "open"), entry

    def columns(self, start: float, stop: float, width: int, scores: F32 | None) -> Columns:
        """Aggregate tokens [start, stop) onto ``width`` screen columns."""
        edges = np.linspace(start, stop, width + 1)
        per_column = max((stop - start) / max(width, 1), 1e-9)
        share = np.zeros((4, width))
        bounds, levels = self.bounds, self.levels
        for level in range(4):
            at_level = levels == level if level < 3 else levels >= 3
            covered = np.zeros(len(bounds))
            np.cumsum(np.diff(bounds) * at_level, out=covered[1:])
            share[level] = np.diff(np.interp(edges, bounds, covered)) / per_column
        middle = np.searchsorted(bounds, (edges[:-1] + edges[1:]) / 2, "right") - 1
        inside = (middle >= 0) & (middle < len(levels))
        node = np.where(inside, middle, 0)
        spans = np.diff(bounds) if len(levels) else np.zeros(1, np.int64)
        wide = inside & (spans[node] >= 2 * per_column)
        parity = np.where(inside, node, 0) & 1
        return Columns(share, self._best(edges, scores), parity, wide)

    def _best(self, edges: F64, scores: F32 | None) -> F64:
        """Highest score of the nodes that touch each column (NaN scores count as 0)."""
        width, n = len(edges) - 1, len(self.levels)
        if scores is None or len(scores) != n or n == 0:
            return np.full(width, np.nan)
        first = np.searchsorted(self.bounds[1:], edges[:-1], "right")
        last = np.searchsorted(self.bounds[:-1], edges[1:], "left")
        values = np.append(np.nan_to_num(scores.astype(np.float64), nan=0.0), -np.inf)
        pairs = np.stack([np.minimum(first, n), np.clip(last, 0, n)], axis=1).reshape(-1)
        best = np.maximum.reduceat(values, pairs)[::2]
        return np.where(last > first, best, np.nan)


@dataclass(frozen=True)
class RowModel:
    """One row: the frontier that was scored, what was done, and the frontier after it."""

    number: int
    step: int
    round: int
    t_ns: int
    phase: int
    trigger: int
    history: int
    tail: int
    before: Spans
    after: Spans
    scores: F32 | None
    actions: tuple[Act, ...]
    refused: tuple[Refused, ...]
    budget_used: int
    w_max: int
    kv_rows: int
    kv_mode: int
    kv_drift: float
    delta_nll: float
    stage_us: tuple[float, ...]
    scores_dropped: int
    marker: str
    knobs: str
    nll: float
    damaged: str = ""

    @property
    def block_size(self) -> int:
        return self.before.block_size

    @cached_property
    def bad_scores(self) -> int:
        """How many scores are NaN or infinite (the allocator counted them as 0)."""
        return 0 if self.scores is None else int((~np.isfinite(self.scores)).sum())

    @cached_property
    def voluntary(self) -> int:
        """Actions that were not forced."""
        return sum(not a.forced for a in self.actions)

    @cached_property
    def raw_blocks(self) -> int:
        """Raw blocks in the scored frontier."""
        return int((self.before.levels == 0).sum())

    @cached_property
    def residency(self) -> float:
        """Share of the scored frontier's nodes that are still there after the actions."""
        before, after = self.before, self.after
        if not len(before.levels):
            return float("nan")
        keys = [s.bounds[:-1] * 16 + s.levels for s in (before, after)]
        return float(np.isin(keys[0], keys[1], assume_unique=True).mean()) if self.actions else 1.0

    @cached_property
    def mix(self) -> tuple[int, int, int, int]:
        """Entries that LOD0, LOD1, LOD2+ and the tail take after the actions."""
        counts = np.bincount(np.minimum(self.after.levels, 2), minlength=3)
        return int(counts[0]) * self.block_size, int(counts[1]), int(counts[2]), self.tail

    def score_of(self, node: Node) -> float:
        """The score ``node`` got in this row; NaN where it was not itself in the frontier."""
        state, entry = self.before.state(node)
        if self.scores is None or state not in ("raw", "gist") or entry >= len(self.scores):
            return float("nan")
        return float(self.scores[entry])

    def partners(self, act: Act) -> tuple[Node, ...]:
        """The other half of a swap that ``act`` is part of."""
        return partners([(a.kind, a.node, a.reason) for a in self.actions], act.node, act.kind)

    def latest_action(self) -> Act | None:
        """The action a person wants to see: the best expansion, else the last action."""
        expansions = [a for a in self.actions if a.kind == 0]
        if expansions:
            return max(expansions, key=lambda a: np.nan_to_num(a.score, nan=-2.0))
        return self.actions[-1] if self.actions else None


def swap_rates(rows: Sequence[RowModel | None]) -> F64:
    """Voluntary actions so far in each row's refocus, per raw block that its first round scored.

    ``rows`` are consecutive; a refocus that began before them counts from their first one on. NaN
    where a row is missing or the frontier had no raw block.
    """
    rates, first, done = [], None, 0
    for row in rows:
        if row is None:
            rates.append(float("nan"))
            first = None
            continue
        if first is None or row.step != first.step:
            first, done = row, 0
        done += row.voluntary
        rates.append(done / first.raw_blocks if first.raw_blocks else float("nan"))
    return np.array(rates, np.float64)
