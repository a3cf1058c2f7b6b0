"""The best candidates that a round turned down, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from megacontext.core.focus.actions import COLLAPSE, EXPAND, F32, I8, I64, REJECTED_DTYPE, Actions
from megacontext.core.focus.constraints import OPEN
from megacontext.core.focus.view import AllocatorView
from megacontext.traces.schema import MAX_REJECTED, Reason

__all__ = ["Turned", "rejections"]


@dataclass(slots=True)
class Turned:
    """Candidate rows that a policy or the walk turned down, by kind."""

    rows: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    reasons: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))

    def add(self, kind: int, row: int, reason: int) -> None:
        self.rows[kind].append(row)
        self.reasons[kind].append(reason)

    def rest(self, kinds: list[int], rows: list[int], taken: list[tuple[int, int, int]]) -> None:
        """Turn down what is left of the wishes for ``N_DIFF``, save groups ``taken`` to pay."""
        paid = {row for kind, row, _ in taken if kind == COLLAPSE}
        for kind in (EXPAND, COLLAPSE):
            more = [row for row, of in zip(rows, kinds, strict=True) if of == kind]
            if kind == COLLAPSE:
                more = [row for row in more if row not in paid]
            self.rows[kind].extend(more)
            self.reasons[kind].extend([Reason.N_DIFF] * len(more))


def rejections(view: AllocatorView, turned: Turned) -> Actions:
    """REJECTED_DTYPE[<= 32], strongest score first.

    What was turned down, what the constraints forbid although its score is beyond a threshold,
    and parents that low-scoring gists ask for although their siblings are not all there.
    """
    found = view.candidates
    expands, expand_reasons = _merge(
        turned,
        EXPAND,
        _strongest(found.expand_score, found.expand_reason, None),
        found.expand_reason,
    )
    low = np.float32(-view.limits.tau_collapse)
    groups, group_reasons = _merge(
        turned, COLLAPSE, _strongest(found.group_score, found.group_reason, low), found.group_reason
    )
    broken = _broken_groups(view, low)
    scores = np.concatenate(
        [found.expand_score[expands], found.group_score[groups], view.scores[broken]]
    )
    order = np.argsort(-np.abs(scores), kind="stable")[:MAX_REJECTED]
    at = found.expand_at[expands]
    rejected = np.empty(len(order), REJECTED_DTYPE)
    rejected["kind"] = order >= len(expands)
    rejected["level"] = np.concatenate(
        [view.levels[at], found.group_level[groups], view.levels[broken] + np.int8(1)]
    )[order]
    rejected["index"] = np.concatenate(
        [view.index[at], found.group_index[groups], view.index[broken] // view.block_size]
    )[order]
    rejected["score"] = scores[order]
    illegal = np.full(len(broken), Reason.ILLEGAL, np.int8)
    rejected["reason"] = np.concatenate([expand_reasons, group_reasons, illegal])[order]
    return rejected


def _merge(turned: Turned, kind: int, blocked: I64, reasons: I8) -> tuple[I64, I8]:
    rows = np.array(turned.rows[kind], np.int64)
    why = np.array(turned.reasons[kind], np.int8)
    if len(blocked) == 0:
        return rows, why
    return np.concatenate([rows, blocked]), np.concatenate([why, reasons[blocked]])


def _strongest(scores: F32, reasons: I8, below: np.float32 | None) -> I64:
    """Rows of the forbidden candidates with the strongest scores, at most 32."""
    blocked = reasons > OPEN
    if below is not None:
        blocked &= scores < below
    rows = np.flatnonzero(blocked)
    if len(rows) <= MAX_REJECTED:
        return rows
    strength = np.abs(scores[rows])
    return rows[np.argsort(-strength, kind="stable")[:MAX_REJECTED]]


def _broken_groups(view: AllocatorView, low: np.float32) -> I64:
    """Positions of gists that score below ``low`` and whose sibling group is incomplete.

    One position a parent, at most 32 of the lowest.
    """
    gist = (view.levels > 0) & (view.levels < view.max_levels)
    at = np.flatnonzero((view.scores < low) & gist)
    if len(at) == 0:
        return at
    found, size = view.candidates, view.block_size
    first = np.zeros(len(view.levels) + size, np.bool_)
    first[found.group_at[found.group_count > 1] + size] = True
    index = view.index[at]
    # A member of a complete group has its group's first entry as many places before it as it
    # has elder siblings.
    at = at[~first[at + size - (index & (size - 1))]]
    if len(at) > 4 * MAX_REJECTED:
        scores = view.scores[at]
        bound = np.partition(scores, 2 * MAX_REJECTED)[2 * MAX_REJECTED]
        at = at[scores <= bound]
    parents = view.index[at] // size * (view.max_levels + 1) + view.levels[at]
    new = np.ones(len(at), np.bool_)
    new[1:] = parents[1:] != parents[:-1]
    at = at[new]
    return at[np.argsort(view.scores[at], kind="stable")[:MAX_REJECTED]]
