"""What each refocus did, followed row by row: swaps, survivors, reversals, detail, NLL.

:class:`RefocusFollower` is fed rows in order, by a reader of a trace or by the session that writes
it, so both give the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from megacontext.traces.schema import ActionKind
from megacontext.traces.state import starts_of

__all__ = ["Refocus", "RefocusFollower"]

THRASH_STEPS = 10


@dataclass(slots=True)
class Refocus:
    """One refocus, all its rounds together. Counts but for ``utilization`` (0 to 1) and NLL.

    Attributes:
        raw_blocks: in the frontier that its first round scored; ``nodes``: all of its nodes.
        survived: nodes of that frontier that the refocus left alone.
        reversals: actions that undo one of the last 10 refocuses.
        lod_nodes: I64[8], nodes by level (7: and above).
        nll_sum, nll_count: of the new tokens that were evaluated, nats and tokens.
    """

    step: int
    raw_blocks: int
    nodes: int
    lod_nodes: np.ndarray
    voluntary: int = 0
    forced: int = 0
    expands: int = 0
    collapses: int = 0
    survived: int = 0
    reversals: int = 0
    utilization: float = 0.0
    nll_sum: float = 0.0
    nll_count: int = 0

    @property
    def swap_rate(self) -> float:
        """Voluntary actions per raw block; NaN where the frontier has none."""
        return self.voluntary / self.raw_blocks if self.raw_blocks else math.nan

    @property
    def residency(self) -> float:
        """Share of the frontier that survived; NaN of an empty one."""
        return self.survived / self.nodes if self.nodes else math.nan

    @property
    def nll(self) -> float:
        """Nats per token; NaN where no token was evaluated."""
        return self.nll_sum / self.nll_count if self.nll_count else math.nan


class RefocusFollower:
    """Follows rows in order; a gap in ``step`` starts anew.

    Attributes:
        lifetimes: refocuses between a node's entry and exit, of all ended nodes;
            ``raw_lifetimes``: of raw blocks alone.
    """

    def __init__(self, block_size: int) -> None:
        self._nodes = _Nodes(block_size)
        self.lifetimes = self._nodes.lifetimes
        self.raw_lifetimes = self._nodes.raw_lifetimes
        self._current: Refocus | None = None

    def add(
        self,
        *,
        step: int,
        levels: np.ndarray,
        actions: np.ndarray,
        appended_levels: np.ndarray,
        history_tokens: int,
        tail_tokens: int,
        budget_used: int,
        w_max: int,
        new_nll: np.ndarray,
    ) -> Refocus:
        """Take the next row (its columns by name).

        Returns:
            The refocus of the row as far as it is known; a later round of it adds to the same
            object.
        """
        current, nodes = self._current, self._nodes

        # A new step opens a refocus; after a gap the nodes are taken from the row itself.
        if current is None or step != current.step:
            if current is None or step != current.step + 1:
                nodes.restart(levels, step)
            nodes.begin(appended_levels, history_tokens - tail_tokens, step)
            counts = np.bincount(np.minimum(levels, 7), minlength=8)
            current = self._current = Refocus(step, int(counts[0]), len(levels), counts)

        # Forced collapses are counted apart: the policy did not choose them.
        if len(actions):
            forced = int(actions["forced"].sum())
            expands = int((actions["kind"] == ActionKind.EXPAND).sum())
            current.forced += forced
            current.voluntary += len(actions) - forced
            current.expands += expands
            current.collapses += len(actions) - expands
            for kind, level, index in actions[["kind", "level", "index"]].tolist():
                nodes.act(kind, level, index, step)

        # Totals so far; NLL is summed in double precision over the tokens that have one.
        current.survived = current.nodes - nodes.lost
        current.reversals = nodes.reversals
        current.utilization = budget_used / max(w_max, 1)
        measured = new_nll[~np.isnan(new_nll)].astype(np.float64)
        current.nll_sum += float(measured.sum())
        current.nll_count += len(measured)
        return current


class _Nodes:
    """Births and flips of nodes, followed through the recorded actions."""

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self._born: dict[tuple[int, int], int] = {}
        self._flipped: dict[tuple[int, int], tuple[int, int]] = {}
        self.lifetimes: list[int] = []
        self.raw_lifetimes: list[int] = []
        self.lost = 0
        self.reversals = 0
        self._fresh: set[tuple[int, int]] = set()

    def restart(self, levels: np.ndarray, step: int) -> None:
        """Take over a frontier whose past is not recorded."""
        starts = starts_of(levels, self._size).tolist()
        self._born = dict.fromkeys(zip(levels.tolist(), starts, strict=True), step)

    def begin(self, added: np.ndarray, stop_token: int, step: int) -> None:
        """Start a refocus; ``added`` levels end at ``stop_token``."""
        self.lost = self.reversals = 0
        self._fresh.clear()
        for level in reversed(added.tolist()):
            stop_token -= self._size ** max(level, 1)
            self._born[(level, stop_token)] = step

    def act(self, kind: int, level: int, index: int, step: int) -> None:
        """Follow one action."""
        start = index * self._size**level
        width = self._size ** max(level - 1, 1)
        count = 1 if level == 1 else self._size
        children = [(level - 1, start + i * width) for i in range(count)]
        expanded = kind == ActionKind.EXPAND
        removed, added = ([(level, start)], children) if expanded else (children, [(level, start)])

        # A node that entered in this very refocus was never part of the old frontier.
        for node in removed:
            if node in self._fresh:
                self._fresh.discard(node)
            else:
                self.lost += 1
            born = self._born.pop(node, None)
            if born is not None:
                self.lifetimes.append(step - born)
                if node[0] == 0:
                    self.raw_lifetimes.append(step - born)
        for node in added:
            self._fresh.add(node)
            self._born[node] = step

        # A reversal soon after the action itself is thrash.
        last = self._flipped.get((level, start))
        if last is not None and last[1] != kind and step - last[0] <= THRASH_STEPS:
            self.reversals += 1
        self._flipped[(level, start)] = step, kind
