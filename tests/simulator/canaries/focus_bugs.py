"""Bugs in budget, headroom, tiling, constraints and what a round records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from canaries.plant import Patch, no, wrap
from megacontext.core.focus import Limits, packing, plan, working_context
from megacontext.core.focus import focus as focus_module
from megacontext.core.focus.focus import Focus
from megacontext.core.focus.hysteresis import Memory
from megacontext.core.focus.working_context import WorkingContext

# -- budget, headroom, tiling ------------------------------------------------------------------


def budget_off_by_one(m: Patch) -> None:
    """Appends may take one entry more than there is."""
    wrap(m, working_context, "reach", lambda f: lambda first, n, *a: f(first, n + 1, *a))
    wrap(m, working_context, "fill_levels", lambda f: lambda a, b, n, *rest: f(a, b, n + 1, *rest))


def headroom_ignored(m: Patch) -> None:
    """The allocator is told of one expansion more than leaves headroom, nobody checks."""

    def force(original: Any) -> Any:
        def mutant(self: Focus, scores: Any) -> Any:
            forced, view = original(self, scores)
            return forced, replace(view, free_slots=view.free_slots + 1)

        return mutant

    wrap(m, Focus, "_force", force)
    wrap(m, WorkingContext, "_run", lambda f: lambda self, actions, headroom: f(self, actions, 0))


def no_forced_collapse(m: Patch) -> None:
    """Nothing is collapsed to make room for the next block."""

    def force(original: Any) -> Any:
        def mutant(self: Focus, scores: Any) -> Any:
            number, self._round = self._round, 1
            try:
                return original(self, scores)
            finally:
                self._round = number

        return mutant

    wrap(m, Focus, "_force", force)
    wrap(m, WorkingContext, "_run", lambda f: lambda self, actions, headroom: f(self, actions, 0))


def cold_start_without_headroom(m: Patch) -> None:
    """A cold start fills the budget to the brim."""

    def start(original: Any) -> Any:
        def mutant(self: WorkingContext, n_tokens: int) -> Any:
            size = self.block_size
            free_slots = self._w_max - n_tokens % size
            levels = packing.fill_levels(0, n_tokens // size, free_slots, *self._packing())
            self.load(levels, n_tokens)
            return self.levels

        return mutant

    wrap(m, WorkingContext, "cold_start", start)


def half_a_sibling_group(m: Patch) -> None:
    """A collapse takes only the first half of the children away."""

    def removed(original: Any) -> Any:
        def mutant(self: Any, kind: int, level: int) -> int:
            whole: int = original(self, kind, level)
            return max(1, whole // 2)

        return mutant

    wrap(m, plan._Batch, "_removed", removed)


def aligned_to_blocks_only(m: Patch) -> None:
    """Old blocks enter as coarse nodes wherever K of them lie in a row."""

    def coarsest(first: int, last: int, size: int, max_levels: int) -> Any:
        levels, blocks = [], last - first
        for level in range(min(max_levels, 2), 0, -1):
            width = size ** (level - 1)
            levels += [level] * (blocks // width)
            blocks %= width
        return np.array(levels, np.int8)

    def frontier_of(levels: Any, size: int, max_levels: int, first_block: int = 0) -> Any:
        widths = np.int64(size) ** np.maximum(levels, 1).astype(np.int64)
        starts = np.cumsum(widths) - widths + first_block * size
        raw = int(np.count_nonzero(levels == 0))
        cost = raw * size + len(levels) - raw
        return plan.Frontier(levels, starts // widths, starts, cost)

    m.setattr(packing, "coarsest_levels", coarsest)
    m.setattr(working_context, "_frontier_of", frontier_of)


def a_splice_loses_an_entry(m: Patch) -> None:
    """Putting the arrays together again drops the entry after an expanded gist."""

    def replaced(self: plan.Splice, values: Any, new: Any) -> Any:
        pieces, done = [], 0
        for at, gone, fresh in zip(self.at, self.removed, new, strict=True):
            pieces += [values[done:at], fresh]
            done = at + gone + (len(fresh) > 1)
        return np.concatenate([*pieces, values[done:]])

    m.setattr(plan.Splice, "replace", replaced)


def protected_ignored(m: Patch) -> None:
    """Recent blocks are as good as any other to collapse."""
    m.setattr(WorkingContext, "protected_from", property(lambda self: 1 << 60))
    wrap(
        m,
        focus_module,
        "find_candidates",
        lambda f: lambda *a, **k: f(*a, **(k | {"protected_blocks": 0})),
    )


# -- limits, cooldown, memory ------------------------------------------------------------------


def limits_plus_one(field: str) -> Callable[[Patch], None]:
    def plant(m: Patch) -> None:
        def begin(original: Any) -> Any:
            def mutant(self: Focus, trigger: Any, limits: Any = None) -> Any:
                own = limits or self.limits
                return original(self, trigger, replace(own, **{field: getattr(own, field) + 1}))

            return mutant

        wrap(m, Focus, "begin", begin)

    return plant


def cooldown_ignored(m: Patch) -> None:
    m.setattr(Memory, "cooling", no)


def cooldown_one_short(m: Patch) -> None:
    wrap(
        m,
        Memory,
        "cooling",
        lambda f: lambda self, step, steps, *reopen: f(self, step, steps - 1, *reopen),
    )


def limits_with(change: Callable[[Limits], Limits]) -> Callable[[Patch], None]:
    def plant(m: Patch) -> None:
        def begin(original: Any) -> Any:
            def mutant(self: Focus, trigger: Any, limits: Any = None) -> Any:
                return original(self, trigger, change(limits or self.limits))

            return mutant

        wrap(m, Focus, "begin", begin)

    return plant


def reopening_frees_everything(m: Patch) -> None:
    """A question also collapses what was just expanded."""

    def cooling(original: Any) -> Any:
        def mutant(self: Memory, step: int, steps: int, reopen: bool = False) -> Any:
            return original(self, step, 0 if reopen else steps, reopen)

        return mutant

    wrap(m, Memory, "cooling", cooling)


def reopening_knows_no_refocus(m: Patch) -> None:
    """A question also expands what it collapsed itself, in an earlier round."""

    def cooling(original: Any) -> Any:
        def mutant(self: Memory, step: int, steps: int, reopen: bool = False) -> Any:
            found = original(self, step, steps, reopen)
            return found.expanded() if reopen and found is not None else found

        return mutant

    wrap(m, Memory, "cooling", cooling)


def reopening_knows_arms(m: Patch) -> None:
    """At a question a gist still waits for new evidence."""

    def force(original: Any) -> Any:
        def mutant(self: Focus, scores: Any) -> Any:
            forced, view = original(self, scores)
            disarmed = self._memory.disarmed_or_none()
            if disarmed is not None and self._round_limits.reopen and not forced:
                found = view.candidates
                found.expand_reason[disarmed[found.expand_at] & (found.expand_reason == -1)] = 21
            return forced, view

        return mutant

    wrap(m, Focus, "_force", force)


def cooling_nodes_forced(m: Patch) -> None:
    """Forced collapses take cooling nodes as readily as others."""

    def choose(original: Any) -> Any:
        def mutant(found: Any, count: int, kept: Any = None) -> Any:
            reasons = found.group_reason
            reasons[reasons == 17] = -1
            return original(found, count, kept)

        return mutant

    wrap(m, focus_module, "choose_forced", choose)


def forced_takes_the_newest(m: Patch) -> None:
    def choose(original: Any) -> Any:
        def mutant(found: Any, count: int, kept: Any = None) -> Any:
            rows, override = original(found, 1 << 20, kept)
            return rows[::-1][:count], override

        return mutant

    wrap(m, focus_module, "choose_forced", choose)


def force_knows_no_near_blocks(m: Patch) -> None:
    wrap(
        m,
        focus_module,
        "choose_forced",
        lambda f: lambda found, count, kept=None: f(found, count),
    )


def never_disarmed(m: Patch) -> None:
    m.setattr(Memory, "disarmed_or_none", no)


def resume_forgets(m: Patch) -> None:
    """A replayed row edits the frontier but not the constraint memory."""

    def replay(original: Any) -> Any:
        def mutant(self: Focus, row: Any, limits: Any = None) -> None:
            original(self, row, limits)
            self._memory = Memory(len(self.working_context), self.step)

        return mutant

    wrap(m, Focus, "replay", replay)


def rearmed_by_any_score(m: Patch) -> None:
    wrap(m, Memory, "rearm", lambda f: lambda self, scores, tau: f(self, scores - 2, tau))


# -- the record --------------------------------------------------------------------------------


def result_with(**changes: Callable[[Any], Any]) -> Callable[[Patch], None]:
    def plant(m: Patch) -> None:
        def round_(original: Any) -> Any:
            def mutant(self: Focus, scores: Any) -> Any:
                result = original(self, scores)
                return replace(result, **{k: f(result) for k, f in changes.items()})

            return mutant

        wrap(m, Focus, "round", round_)

    return plant


def not_a_number_kept(m: Patch) -> None:
    def clean(scores: Any, entries: int) -> Any:
        given = np.asarray(scores)
        if given.shape != (entries,):
            return np.zeros(entries, np.float16), entries
        with np.errstate(over="ignore"):
            return np.nan_to_num(given.astype(np.float16), nan=0.25), 0

    m.setattr(focus_module, "clean_scores", clean)


def _free_running(m: Patch) -> None:
    """A choice that depends on something outside the seed."""
    ticks = count()

    def propose(original: Any) -> Any:
        def mutant(self: Focus, scores: Any) -> Any:
            forced, view = original(self, scores)
            return forced, replace(view, free_slots=min(view.free_slots, next(ticks) % 7))

        return mutant

    wrap(m, Focus, "_force", propose)
