"""Plans: a sequence of expands and collapses, checked as a whole, done as few splices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.core.focus.actions import COLLAPSE, EXPAND, I8, I64, Actions
from megacontext.traces.errors import PlanError

__all__ = ["Frontier", "Rules", "Splice", "run_plan"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a plan must respect; lengths in entries, ``protected_from`` a token position."""

    block_size: int
    max_levels: int
    w_max: int
    tail_tokens: int
    protected_from: int


@dataclass(frozen=True, slots=True)
class Frontier:
    """Parallel arrays, oldest first: levels I8[n], index I64[n], starts I64[n] (tokens)."""

    levels: I8
    index: I64
    starts: I64
    cost: int  # entries of the frontier, without the tail


@dataclass(frozen=True, slots=True)
class Splice:
    """One batch of edits: at ``at[k]`` (old positions, ascending) ``removed[k]`` entries leave
    and ``inserted[k]`` take their place. Caches that follow the frontier replay it."""

    at: tuple[int, ...]
    removed: tuple[int, ...]
    inserted: tuple[int, ...]

    def carry(self, values: npt.NDArray[np.generic], fill: object) -> npt.NDArray[np.generic]:
        """``values[n]`` after the edits; inserted entries get ``fill``."""
        new = np.empty(max(self.inserted), values.dtype)
        new.fill(fill)
        return self.replace(values, [new[:count] for count in self.inserted])

    def replace(
        self, values: npt.NDArray[np.generic], new: list[npt.NDArray[np.generic]]
    ) -> npt.NDArray[np.generic]:
        """``values[n]`` after the edits; ``new[k]`` are the entries inserted at ``at[k]``."""
        parts = []
        done = 0
        for at, removed, fresh in zip(self.at, self.removed, new, strict=True):
            parts.append(values[done:at])
            parts.append(fresh)
            done = at + removed
        parts.append(values[done:])
        return np.concatenate(parts)


def run_plan(frontier: Frontier, actions: Actions, rules: Rules) -> tuple[Frontier, list[Splice]]:
    """The frontier after ``actions`` in order, or :class:`PlanError` naming the broken invariant.

    The given frontier is not changed. Actions that do not touch one another's entries share one
    splice, so a usual plan costs one rebuild of the arrays.
    """
    kinds: list[int] = actions["kind"].tolist()
    levels: list[int] = actions["level"].tolist()
    indices: list[int] = actions["index"].tolist()
    splices: list[Splice] = []
    total, done = frontier.cost + rules.tail_tokens, 0

    while done < len(kinds):
        batch = _Batch(frontier, rules)
        positions = batch.locate(levels[done:], indices[done:])
        for position in positions:
            kind, level, index = kinds[done], levels[done], indices[done]
            problem = batch.problem(kind, level, index, position)
            if problem is not None:
                if not batch.edits:
                    raise PlanError(problem)
                break  # it may depend on edits of this batch: apply them, then look again
            batch.add(kind, level, index, position)
            before, total = total, total + batch.step(kind)
            if total > rules.w_max and total > before:
                raise PlanError(
                    f"budget: action {done} raises the cost to {total}, over w_max "
                    f"{rules.w_max}; collapse first or raise w_max."
                )
            done += 1

        frontier, splice = batch.apply()
        splices.append(splice)
    return frontier, splices


class _Batch:
    """Edits on one frontier that touch disjoint entries."""

    def __init__(self, frontier: Frontier, rules: Rules) -> None:
        self.old = frontier
        self.rules = rules
        self.edits: list[tuple[int, int, int, int, int]] = []  # at, removed, kind, level, index
        self.touched = bytearray(len(frontier.levels))

    def locate(self, levels: list[int], indices: list[int]) -> list[int]:
        """Positions at which the spans of the nodes start (where they would, if absent)."""
        width = self.rules.block_size
        starts = [
            index * width ** max(level, 1) for level, index in zip(levels, indices, strict=True)
        ]
        limit = 1 << 62
        positions: list[int] = self.old.starts.searchsorted(
            [min(start, limit) for start in starts]
        ).tolist()
        return positions

    def step(self, kind: int) -> int:
        return self.rules.block_size - 1 if kind == EXPAND else 1 - self.rules.block_size

    def _removed(self, kind: int, level: int) -> int:
        return self.rules.block_size if kind == COLLAPSE and level > 1 else 1

    def problem(self, kind: int, level: int, index: int, at: int) -> str | None:
        """Why the action cannot be done on this batch's frontier, or None."""
        rules, old = self.rules, self.old
        if kind not in (EXPAND, COLLAPSE):
            return f"action: kind {kind} is neither expand (0) nor collapse (1)."
        if not 1 <= level <= rules.max_levels:
            return f"existence: level {level} is outside 1..{rules.max_levels}."
        removed = self._removed(kind, level)
        width = rules.block_size**level
        matches = at + removed <= len(old.levels) and int(old.starts[at]) == index * width
        free = matches and self.touched.find(1, at, at + removed) < 0
        if kind == EXPAND:
            if not free or int(old.levels[at]) != level:
                return f"existence: gist ({level}, {index}) is not in the frontier to expand."
            return None
        if not free or bool((old.levels[at : at + removed] != level - 1).any()):
            return f"siblings: the children of ({level}, {index}) are not all in the frontier."
        if (index + 1) * width > rules.protected_from:
            return f"protected: ({level}, {index}) covers a protected recent block."
        return None

    def add(self, kind: int, level: int, index: int, at: int) -> None:
        removed = self._removed(kind, level)
        self.touched[at : at + removed] = b"\1" * removed
        self.edits.append((at, removed, kind, level, index))

    def apply(self) -> tuple[Frontier, Splice]:
        size = self.rules.block_size
        new_levels: list[I8] = []
        new_index: list[I64] = []
        new_starts: list[I64] = []
        cost = self.old.cost

        # The entries that each edit inserts, from left to right.
        self.edits.sort()
        for _, _, kind, level, index in self.edits:
            cost += self.step(kind)
            child = level - 1 if kind == EXPAND else level
            count = size if kind == EXPAND and level > 1 else 1
            first = index * count
            fresh = np.arange(first, first + count, dtype=np.int64)
            levels = np.empty(count, np.int8)
            levels.fill(child)
            new_levels.append(levels)
            new_index.append(fresh)
            new_starts.append(fresh * size ** max(child, 1))

        # All edits are one splice of the three arrays.
        splice = Splice(
            tuple(edit[0] for edit in self.edits),
            tuple(edit[1] for edit in self.edits),
            tuple(len(fresh) for fresh in new_index),
        )
        after = Frontier(
            splice.replace(self.old.levels, new_levels),  # type: ignore[arg-type]
            splice.replace(self.old.index, new_index),  # type: ignore[arg-type]
            splice.replace(self.old.starts, new_starts),  # type: ignore[arg-type]
            cost,
        )
        return after, splice
