"""The focus: working context, allocator and constraint memory, driven refocus by refocus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from megacontext.core.focus.actions import ACTION_DTYPE, F16, F32, I8, I64, Actions, Bools
from megacontext.core.focus.constraints import (
    TAKEN,
    Candidates,
    Cooldowns,
    find_candidates,
    raw_since,
)
from megacontext.core.focus.forced import choose_forced, take
from megacontext.core.focus.hysteresis import Memory, changed_nodes
from megacontext.core.focus.plan import Frontier
from megacontext.core.focus.view import Allocator, AllocatorView, Limits
from megacontext.core.focus.working_context import WorkingContext
from megacontext.traces.errors import BudgetError, PlanError
from megacontext.traces.schema import Reason, Trigger

__all__ = ["Focus", "RecordedRound", "RoundResult", "clean_scores"]


class RecordedRound(Protocol):
    """What :meth:`Focus.replay` reads of a trace row."""

    @property
    def step(self) -> int: ...
    @property
    def round(self) -> int: ...
    @property
    def history_tokens(self) -> int: ...
    @property
    def levels(self) -> np.ndarray: ...
    @property
    def scores(self) -> np.ndarray | None: ...
    @property
    def actions(self) -> np.ndarray: ...
    @property
    def w_max(self) -> int: ...


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One round as a trace row records it.

    Attributes:
        levels: I8[n], the frontier that was scored (before ``actions``).
        scores: F16[n], as the allocator used them; None where nothing was scored.
        actions: ACTION_DTYPE, forced ones first, in order of application.
        rejected: REJECTED_DTYPE, best first, at most 32.
        budget_used: entries after the actions.
        bad_scores: entries whose score was unusable and counted as 0.
        settled: there was no voluntary action; another round would have none either.
        last: the refocus is over: it has settled or used its rounds.
    """

    step: int
    round: int
    trigger: Trigger
    n_tokens: int
    tail_tokens: int
    levels: I8
    scores: F16 | None
    actions: Actions
    rejected: Actions
    budget_used: int
    w_max: int
    bad_scores: int
    settled: bool
    last: bool


def clean_scores(scores: npt.ArrayLike | None, entries: int) -> tuple[F16, int]:
    """Scores rounded to float16, unusable ones 0, and how many were unusable.

    A wrong length or type makes all of them unusable; NaN, infinite and beyond-float16 values
    are unusable one by one.
    """
    values = np.asarray(scores)
    if values.shape != (entries,) or values.dtype.kind not in "fiu":
        return np.zeros(entries, np.float16), entries
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    usable = np.isfinite(rounded)
    if usable.all():
        return rounded, 0
    return np.where(usable, rounded, np.float16(0)), int(entries - np.count_nonzero(usable))


class Focus:
    """The focus of a session: append tokens, begin a refocus, then pass scores round by round.

    Args:
        working_context: it is edited in place; the focus is its only editor.
        allocator: the policy.
        limits: used by every refocus that is not given limits of its own.
        seed: for allocators that draw.

    Attributes:
        step: number of the last begun refocus, -1 before the first.
    """

    def __init__(
        self,
        working_context: WorkingContext,
        allocator: Allocator,
        limits: Limits | None = None,
        seed: int = 0,
    ) -> None:
        self.working_context = working_context
        self.allocator = allocator
        self.limits = limits or Limits()
        self.seed = seed
        self.step = -1
        self._memory = Memory(len(working_context))
        self._round_limits = self.limits
        self._round = 0
        self._trigger: Trigger | None = None

    @property
    def ages(self) -> I64:
        """I64[n]: refocuses that each frontier entry has survived."""
        return np.maximum(self.step - self._memory.created_at, 0)

    def append(self, n_tokens: int) -> I8:
        """Grow the history; see :meth:`WorkingContext.append`."""
        levels = self.working_context.append(n_tokens)
        self._memory.grow(len(levels), self.step + 1)
        return levels

    def extend(self, levels: npt.ArrayLike, n_tokens: int) -> None:
        """Grow to ``n_tokens`` in all with recorded ``appended_levels``; see
        :meth:`WorkingContext.extend`."""
        known = len(self.working_context)
        self.working_context.extend(levels, n_tokens)
        self._memory.grow(len(self.working_context) - known, self.step + 1)

    def ingest(self, n_tokens: int) -> Iterator[tuple[I8, RoundResult]]:
        """Append any number of tokens: as many as fit, then a refocus with forced collapses only,
        until all are appended.

        Yields the result of each append and refocus; nothing is scored.
        """
        forced_only = Limits(n_diff=0, rounds=1)
        while n_tokens > 0:
            part = min(n_tokens, self.working_context.max_append())
            levels = self.append(part)  # a part of 0 cannot be: the budget holds K free entries
            n_tokens -= part
            self.begin(Trigger.BULK, forced_only)
            yield levels, self.round(None)

    def begin(self, trigger: Trigger, limits: Limits | None = None) -> int:
        """Start the next refocus; returns its step number."""
        self._trigger = trigger
        self._round_limits = limits or self.limits
        self._round = 0
        self.step += 1
        return self.step

    def round(self, scores: npt.ArrayLike | None) -> RoundResult:
        """Allocate once on ``scores`` F16/F32[n]; None means that nothing was scored.

        In round 0 forced collapses come first, until the headroom is free.

        Raises:
            PlanError: no refocus is under way, or its rounds are used up.
        """
        if self._trigger is None:
            raise PlanError("round: no refocus is under way; call begin() first.")
        context, limits = self.working_context, self._round_limits
        used, bad = clean_scores(scores, len(context)) if scores is not None else (None, 0)
        before, at_round, trigger = context.levels, self._round, self._trigger

        # Scores count as 0 where nothing was scored; they arm nodes again.
        values = (np.zeros(len(context), np.float16) if used is None else used).astype(np.float32)
        if used is not None:
            self._memory.rearm(values, limits.tau_expand)

        # Forced collapses, then the allocator.
        forced, view = self._force(values)
        decision = self.allocator.propose(view)
        if len(decision.actions) > limits.n_diff:
            raise PlanError(
                f"n_diff: {self.allocator.name} proposed {len(decision.actions)} actions, "
                f"{limits.n_diff} are allowed."
            )
        actions = _joined(forced, decision.actions)
        self._apply(actions)

        # The refocus ends when a round does nothing by choice.
        settled = len(decision.actions) == 0
        self._round += 1
        last = settled or self._round >= limits.rounds
        if last:
            self._trigger = None
        return RoundResult(
            step=self.step,
            round=at_round,
            trigger=trigger,
            n_tokens=context.n_tokens,
            tail_tokens=context.tail_tokens,
            levels=before,
            scores=used,
            actions=actions,
            rejected=decision.rejected,
            budget_used=context.cost,
            w_max=context.w_max,
            bad_scores=bad,
            settled=settled,
            last=last,
        )

    @property
    def disarmed(self) -> Bools:
        """bool[n]: gists that may not be expanded by choice before they show new evidence."""
        return self._memory.disarmed

    def set_w_max(self, w_max: int) -> None:
        """Change the budget; after a cut the next refocus collapses down to it."""
        self.working_context.set_w_max(w_max)

    # -- replay --------------------------------------------------------------------------------

    def rebuild(
        self,
        rows: Iterable[RecordedRound],
        limits_of: Callable[[RecordedRound], Limits] | None = None,
    ) -> None:
        """Forget everything and replay recorded rows; behaves from then on as the run did.

        The budget is then the last row's; a change after it must be made again, as must appends
        after it (:meth:`extend`).

        Args:
            limits_of: the limits that a row's refocus had, where they were not ``self.limits``.
        """
        self.step = -1
        self._trigger = None
        self._memory = Memory()
        self.working_context.load(np.empty(0, np.int8), 0)
        for row in rows:
            self.replay(row, limits_of(row) if limits_of else None)

    def align(self, row: RecordedRound) -> None:
        """Bring history, budget and step to where ``row`` was scored.

        The row's frontier must be the present one plus what was appended since; on an empty
        working context it is taken as it is (cold start).

        Raises:
            PlanError: the row does not continue this focus.
        """
        context = self.working_context
        context.set_w_max(max(row.w_max, context.w_max))
        known = len(context)
        if known == 0:
            context.load(row.levels, row.history_tokens)
        else:
            if not np.array_equal(row.levels[:known], context.levels):
                raise PlanError(
                    f"tiling: step {row.step} does not continue the frontier before it."
                )
            context.extend(row.levels[known:], row.history_tokens)
        context.set_w_max(row.w_max)
        self.step = row.step
        self._memory.grow(len(context) - known, row.step)

    def replay(self, row: RecordedRound, limits: Limits | None = None) -> None:
        """Do again what ``row`` recorded, without asking the allocator.

        A row without scores arms nothing, as a round without scores does.
        """
        self.align(row)
        if row.scores is not None:
            scores, _ = clean_scores(row.scores, len(self.working_context))
            self._memory.rearm(scores.astype(np.float32), (limits or self.limits).tau_expand)
        self._apply(row.actions)

    # -- internals -----------------------------------------------------------------------------

    def _apply(self, actions: Actions) -> None:
        context = self.working_context
        if len(actions):
            splices = context.apply(actions, headroom=context.block_size)
            self._memory.follow(
                actions, splices, self.step, context.levels, context.starts, context.block_size
            )

    def _candidates(
        self, frontier: Frontier, scores: F32, disarmed: np.ndarray | None, forced: list[Actions]
    ) -> Candidates:
        context, limits = self.working_context, self._round_limits
        cooling = self._memory.cooling(self.step, limits.cooldown_steps, limits.reopen)
        for actions in forced:
            new = changed_nodes(actions)
            cooling = new if cooling is None else _join(cooling, new)
        return find_candidates(
            frontier.levels,
            frontier.index,
            frontier.starts,
            scores,
            tau_expand=limits.tau_expand,
            block_size=context.block_size,
            max_levels=context.max_levels,
            protected_blocks=context.protected_blocks,
            disarmed=disarmed,
            cooling=cooling,
        )

    def _force(self, scores: F32) -> tuple[list[Actions], AllocatorView]:
        """Forced collapses (not yet applied) and the view of the allocator after them."""
        context, size = self.working_context, self.working_context.block_size
        frontier = context.frontier
        disarmed = None if self._round_limits.reopen else self._memory.disarmed_or_none()

        forced: list[Actions] = []
        candidates = self._candidates(frontier, scores, disarmed, forced)
        free = context.free
        headroom = size + self._round_limits.headroom
        keep_newest = self._round_limits.keep_newest
        near = context.n_tokens // size - keep_newest  # number of the first block to keep

        # Collapse the lowest groups until the headroom is free.
        while free < headroom and self._round == 0:
            need = -((free - headroom) // (size - 1))
            rows, override = choose_forced(
                candidates, need, raw_since(candidates, near) if keep_newest else None
            )
            if override or len(rows) == 0:  # a group in cooldown only for one free block
                if free >= size:
                    break
                rows = rows[: -((free - size) // (size - 1))]
            if len(rows) == 0:
                raise BudgetError(
                    f"w_max: {context.w_max} cannot hold {context.n_tokens} tokens; raise it."
                )
            group_scores = candidates.group_score[rows]
            actions = take(candidates, rows, override, size, -free)
            forced.append(actions)
            free += len(rows) * (size - 1)

            # Collapsed groups may complete a group of the next level.
            if len(rows) < need:
                frontier, splices = context.preview(frontier, actions)
                order = np.argsort(candidates.group_at[rows])
                new = [group_scores[at : at + 1] for at in order.tolist()]
                scores = splices[0].replace(scores, new)  # type: ignore[arg-type, assignment]
                if disarmed is not None:
                    disarmed = splices[0].carry(disarmed, False)  # type: ignore[assignment]
                candidates = self._candidates(frontier, scores, disarmed, forced)

        # For the allocator, the newest blocks are protected as well, if the limits say so.
        if keep_newest:
            candidates.group_reason[
                raw_since(candidates, near) & (candidates.group_reason != TAKEN)
            ] = Reason.PROTECTED

        free_slots = max(0, (free - headroom) // (size - 1))
        return forced, AllocatorView(
            levels=frontier.levels,
            index=frontier.index,
            starts=frontier.starts,
            scores=scores,
            candidates=candidates,
            limits=self._round_limits,
            free_slots=free_slots,
            n_tokens=context.n_tokens,
            block_size=size,
            max_levels=context.max_levels,
            step=self.step,
            round=self._round,
            seed=self.seed,
        )


def _join(one: Cooldowns, two: Cooldowns) -> Cooldowns:
    return Cooldowns(
        np.concatenate([one.kinds, two.kinds]),
        np.concatenate([one.levels, two.levels]),
        np.concatenate([one.index, two.index]),
    )


def _joined(forced: list[Actions], voluntary: Actions) -> Actions:
    # np.concatenate promotes structured dtypes field by field, which costs more than all else.
    if not forced:
        return voluntary
    actions = np.empty(sum(map(len, forced)) + len(voluntary), ACTION_DTYPE)
    done = 0
    for part in (*forced, voluntary):
        actions[done : done + len(part)] = part
        done += len(part)
    return actions
