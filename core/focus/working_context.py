"""The working context: a frontier of nodes plus the raw tail, under a hard budget."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from megacontext.core.focus.actions import I8, I64, Actions
from megacontext.core.focus.packing import fill_levels, reach
from megacontext.core.focus.plan import Frontier, Rules, Splice, run_plan
from megacontext.traces.errors import BudgetError, PlanError

__all__ = ["WorkingContext", "smallest_w_max"]


def smallest_w_max(block_size: int, max_levels: int, protected_blocks: int) -> int:
    """Entries that hold any history below K**(max_levels + 1) tokens at its coarsest.

    Up to K - 1 nodes of each level, the protected raw blocks, a tail and K free entries.
    """
    return (block_size - 1) * max_levels + protected_blocks * block_size + 2 * block_size


class WorkingContext:
    """Struct of arrays over [0, N): ``levels``, ``index``, ``starts``, oldest first, and a tail.

    Every edit replaces the arrays (they are read-only), so a caller may keep what it was given.

    Args:
        block_size: K, a power of two >= 2.
        max_levels: coarsest level of the tree.
        w_max: the budget in entries.
        protected_blocks: newest closed blocks that stay raw.

    Raises:
        BudgetError: ``w_max`` is below :func:`smallest_w_max`.
    """

    def __init__(
        self, block_size: int, max_levels: int, w_max: int, protected_blocks: int = 1
    ) -> None:
        if block_size < 2 or block_size & (block_size - 1):
            raise PlanError(f"block_size: {block_size} is not a power of two of at least 2.")
        if max_levels < 1 or protected_blocks < 0:
            raise PlanError(
                f"max_levels {max_levels} must be at least 1 and protected_blocks "
                f"{protected_blocks} at least 0."
            )
        self.block_size = block_size
        self.max_levels = max_levels
        self.protected_blocks = protected_blocks
        self.n_tokens = 0
        self._w_max = 0
        self._install(_frontier_of(np.empty(0, np.int8), block_size, max_levels))
        self._check_w_max(w_max)
        self._w_max = w_max

    @staticmethod
    def smallest_w_max(block_size: int, max_levels: int, protected_blocks: int) -> int:
        """See :func:`smallest_w_max`."""
        return smallest_w_max(block_size, max_levels, protected_blocks)

    @classmethod
    def from_levels(
        cls,
        levels: npt.ArrayLike,
        n_tokens: int,
        *,
        block_size: int,
        max_levels: int,
        w_max: int,
        protected_blocks: int = 1,
    ) -> Self:
        """The working context that a trace row describes; see :meth:`load`."""
        context = cls(block_size, max_levels, w_max, protected_blocks)
        context.load(levels, n_tokens)
        return context

    # -- state ---------------------------------------------------------------------------------

    @property
    def w_max(self) -> int:
        """The budget in force, in entries."""
        return self._w_max

    @property
    def frontier(self) -> Frontier:
        """The arrays and their cost as one immutable value."""
        return self._frontier

    @property
    def tail_tokens(self) -> int:
        """Length of the newest, incomplete block."""
        return self.n_tokens % self.block_size

    @property
    def closed_blocks(self) -> int:
        """Complete blocks so far."""
        return self.n_tokens // self.block_size

    @property
    def cost(self) -> int:
        """Entries in use: K a raw block, 1 a gist, and the tail."""
        return self._frontier.cost + self.tail_tokens

    @property
    def free(self) -> int:
        """Entries left under ``w_max``; negative between a budget cut and its refocus."""
        return self._w_max - self.cost

    @property
    def protected_from(self) -> int:
        """First token of the protected blocks."""
        return max(0, self.closed_blocks - self.protected_blocks) * self.block_size

    def __len__(self) -> int:
        return len(self.levels)

    def entry_spans(self) -> I64:
        """I64[cost, 2]: token span [start, stop) of every window entry, tail included."""
        size = self.block_size
        counts = np.where(self.levels == 0, size, 1)
        raw = np.repeat(self.levels == 0, counts)
        first = np.repeat(self.starts, counts)
        offset = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        start = first + np.where(raw, offset, 0)
        width = np.repeat(np.int64(size) ** self.levels.astype(np.int64), counts)
        tail = np.arange(self.n_tokens - self.tail_tokens, self.n_tokens)
        starts = np.concatenate([start, tail])
        ends = np.concatenate([start + width, tail + 1])
        return np.stack([starts, ends], axis=1)

    # -- growing -------------------------------------------------------------------------------

    def max_append(self) -> int:
        """Largest n such that ``append(m)`` works for every m <= n; >= K under headroom.

        Two bounds: what fits beside the present frontier right now, and what this budget can
        ever hold with K entries free (beyond it no collapse could restore headroom).
        """
        now = (
            reach(self.closed_blocks, self._w_max - self._frontier.cost, *self._packing())
            - self.tail_tokens
        )
        return max(0, min(now, self._capacity - self.n_tokens))

    def append(self, n_tokens: int) -> I8:
        """Grow the history by ``n_tokens``; returns ``appended_levels`` I8[m].

        Blocks that close enter raw when all of them fit; otherwise the oldest of them enter as
        gists, coarser where needed.

        Raises:
            PlanError: ``n_tokens`` is negative or beyond :meth:`max_append`.
        """
        if n_tokens < 0 or n_tokens > self.max_append():
            raise PlanError(
                f"budget: cannot append {n_tokens} tokens, at most {self.max_append()} fit now; "
                "refocus between smaller appends or raise w_max or the number of levels."
            )
        last = (self.n_tokens + n_tokens) // self.block_size
        tail = (self.n_tokens + n_tokens) % self.block_size
        free_slots = self._w_max - self._frontier.cost - tail
        levels = fill_levels(self.closed_blocks, last, free_slots, *self._packing())
        if levels is None:  # max_append() and fill_levels() disagree: a bug, not a user's error
            raise PlanError(f"budget: {n_tokens} tokens do not fit into {free_slots} entries.")
        self._extend(levels, self.n_tokens + n_tokens)
        return levels

    def extend(self, levels: npt.ArrayLike, n_tokens: int) -> None:
        """Grow to ``n_tokens`` tokens in all, the closed blocks entering at given ``levels``.

        What :meth:`append` decided once, replayed from a recorded row.

        Raises:
            PlanError: the levels do not tile the new blocks, or exceed the budget.
        """
        recorded = np.asarray(levels, np.int8)
        blocks = n_tokens // self.block_size - self.closed_blocks
        if n_tokens < self.n_tokens or blocks < 0:
            raise PlanError(
                f"tiling: history cannot shrink from {self.n_tokens} to {n_tokens} tokens."
            )
        cost = self._frontier.cost + n_tokens % self.block_size
        if blocks or len(recorded):  # else the tail alone grows
            new = _frontier_of(recorded, self.block_size, self.max_levels, self.closed_blocks)
            end = n_tokens - n_tokens % self.block_size
            begin = self.closed_blocks * self.block_size
            self._check_tiling(new, begin, end, min(self.protected_blocks, blocks))
            cost += new.cost
        if cost > self._w_max and cost > self.cost:
            raise PlanError(f"budget: the append costs {cost}, over w_max {self._w_max}.")
        self._extend(recorded, n_tokens)

    def cold_start(self, n_tokens: int) -> I8:
        """Start over an existing tree: newest blocks raw, then LOD1, then the coarsest that fits.

        Leaves K entries free. Returns the levels of the frontier.

        Raises:
            BudgetError: the history is too long for this budget and number of levels.
        """
        size = self.block_size
        free_slots = self._w_max - size - n_tokens % size
        levels = fill_levels(0, n_tokens // size, free_slots, *self._packing())
        if levels is None or n_tokens > self._capacity:
            raise BudgetError(self._too_long(n_tokens, self._w_max))
        self.load(levels, n_tokens)
        return self.levels

    def load(self, levels: npt.ArrayLike, n_tokens: int) -> None:
        """Replace the state by a recorded frontier over ``n_tokens`` tokens.

        It may be over budget, as a row recorded right after a budget cut is: then only plans
        that bring it back under ``w_max`` are legal.

        Raises:
            PlanError: the levels do not tile the closed blocks, or a protected block is no raw.
        """
        recorded = np.array(levels, np.int8)
        frontier = _frontier_of(recorded, self.block_size, self.max_levels)
        blocks = n_tokens // self.block_size
        raw = min(self.protected_blocks, blocks)
        self._check_tiling(frontier, 0, blocks * self.block_size, raw)
        self.n_tokens = n_tokens
        self._install(frontier)

    # -- editing -------------------------------------------------------------------------------

    def check(self, actions: Actions, *, headroom: int = 0) -> None:
        """Raise :class:`PlanError` unless :meth:`apply` would do all of ``actions``."""
        self._run(actions, headroom)

    def apply(self, actions: Actions, *, headroom: int = 0) -> list[Splice]:
        """Do all of ``actions`` in order, or none.

        Cost stays within ``w_max`` after every single action (a frontier that a budget cut left
        above it may only shrink, and must end within), and ``headroom`` entries are free at the
        end. Returns what caches along the frontier must follow.

        Raises:
            PlanError: names the invariant that an action would break.
        """
        if len(actions) == 0:
            return []
        frontier, splices = self._run(actions, headroom)
        self._install(frontier)
        return splices

    def preview(self, frontier: Frontier, actions: Actions) -> tuple[Frontier, list[Splice]]:
        """What ``actions`` would make of a frontier over the same history; nothing is applied."""
        return run_plan(frontier, actions, self._rules())

    def set_w_max(self, w_max: int) -> None:
        """Change the budget. A cut takes effect through the next refocus's forced collapses.

        Raises:
            BudgetError: the budget can never hold this history.
        """
        if w_max != self._w_max or self.n_tokens > self._capacity:
            self._check_w_max(w_max)
            self._w_max = w_max

    # -- internals -----------------------------------------------------------------------------

    def _run(self, actions: Actions, headroom: int) -> tuple[Frontier, list[Splice]]:
        frontier, splices = run_plan(self._frontier, actions, self._rules())
        left = self._w_max - frontier.cost - self.tail_tokens
        if left < headroom:
            raise PlanError(
                f"headroom: the plan leaves {left} entries free, {headroom} are needed; "
                "collapse more."
            )
        return frontier, splices

    def _rules(self) -> Rules:
        return Rules(
            self.block_size, self.max_levels, self._w_max, self.tail_tokens, self.protected_from
        )

    def _packing(self) -> tuple[int, int, int]:
        return self.protected_blocks, self.block_size, self.max_levels

    def _check_w_max(self, w_max: int) -> None:
        least = smallest_w_max(self.block_size, self.max_levels, self.protected_blocks)
        if w_max < least:
            raise BudgetError(
                f"w_max: {w_max} cannot hold the smallest legal frontier; set it to at least "
                f"{least} (block_size {self.block_size}, {self.max_levels} levels, "
                f"{self.protected_blocks} protected blocks)."
            )
        capacity = reach(0, w_max - self.block_size, *self._packing())
        if self.n_tokens > capacity:
            raise BudgetError(self._too_long(self.n_tokens, w_max))
        self._capacity = capacity

    def _too_long(self, n_tokens: int, w_max: int) -> str:
        return (
            f"w_max: {w_max} cannot hold {n_tokens} tokens with {self.max_levels} levels; "
            "raise w_max or the number of levels."
        )

    def _check_tiling(self, frontier: Frontier, begin: int, end: int, raw: int) -> None:
        covered = begin
        if len(frontier.levels):
            covered = int(frontier.starts[-1]) + self.block_size ** max(int(frontier.levels[-1]), 1)
        if covered != end:
            raise PlanError(f"tiling: the frontier ends at token {covered}, not at {end}.")
        if raw and bool(frontier.levels[-raw:].any()):
            raise PlanError(f"protected: one of the newest {raw} closed blocks is not raw.")

    def _extend(self, levels: I8, n_tokens: int) -> None:
        if len(levels):
            new = _frontier_of(levels, self.block_size, self.max_levels, self.closed_blocks)
            old = self._frontier
            self._install(
                Frontier(
                    np.concatenate([old.levels, new.levels]),
                    np.concatenate([old.index, new.index]),
                    np.concatenate([old.starts, new.starts]),
                    old.cost + new.cost,
                )
            )
        self.n_tokens = n_tokens

    def _install(self, frontier: Frontier) -> None:
        for array in (frontier.levels, frontier.index, frontier.starts):
            array.flags.writeable = False
        self._frontier = frontier
        self.levels, self.index, self.starts = frontier.levels, frontier.index, frontier.starts


def _frontier_of(levels: I8, block_size: int, max_levels: int, first_block: int = 0) -> Frontier:
    """The frontier with these levels from block ``first_block`` on; checks alignment."""
    if (
        levels.ndim == 1 and len(levels) and not levels.any()
    ):  # raw blocks alone, as most appends are
        blocks = np.arange(first_block, first_block + len(levels), dtype=np.int64)
        return Frontier(levels, blocks, blocks * block_size, len(levels) * block_size)
    if levels.ndim != 1 or (len(levels) and not 0 <= levels.min() <= levels.max() <= max_levels):
        raise PlanError(f"existence: a frontier's levels lie in 0..{max_levels}.")
    widths = np.int64(block_size) ** np.maximum(levels, 1).astype(np.int64)
    ends = np.cumsum(widths) + first_block * block_size
    starts = ends - widths
    if bool((starts & (widths - 1)).any()):
        bad = int(np.flatnonzero(starts & (widths - 1))[0])
        raise PlanError(
            f"alignment: a level-{levels[bad]} node cannot start at token {starts[bad]}."
        )
    raw = int(np.count_nonzero(levels == 0))
    cost = raw * block_size + len(levels) - raw
    return Frontier(levels, starts // widths, starts, cost)
