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
    low = np.float32(-view.limits.tau_collapse)
    blocked = (found.expand_reason > OPEN).nonzero()[0]
    expands, why_expand = _merge(turned, EXPAND, blocked, found.expand_score, found.expand_reason)
    blocked = ((found.group_reason > OPEN) & (found.group_score < low)).nonzero()[0]
    groups, why_group = _merge(turned, COLLAPSE, blocked, found.group_score, found.group_reason)
    broken = _broken_groups(view, low)
    at = found.expand_at[expands]
    rejected = np.empty(len(expands) + len(groups) + len(broken), REJECTED_DTYPE)
    first, second = len(expands), len(expands) + len(groups)
    rejected["kind"][:first] = EXPAND
    rejected["kind"][first:] = COLLAPSE
    for name, column in (
        ("level", (view.levels[at], found.group_level[groups], view.levels[broken] + 1)),
        (
            "index",
            (view.index[at], found.group_index[groups], view.index[broken] // view.block_size),
        ),
        ("score", (found.expand_score[expands], found.group_score[groups], view.scores[broken])),
        ("reason", (why_expand, why_group, Reason.ILLEGAL)),
    ):
        field_ = rejected[name]
        field_[:first], field_[first:second], field_[second:] = column
    strength = np.abs(rejected["score"])
    best: Actions = rejected[(-strength).argsort(kind="stable")[:MAX_REJECTED]]
    return best


def _merge(turned: Turned, kind: int, blocked: I64, scores: F32, reasons: I8) -> tuple[I64, I8]:
    """Rows turned down and the strongest of the blocked ones, with reasons."""
    if len(blocked) > MAX_REJECTED:
        strength = np.abs(scores[blocked])
        blocked = blocked[(-strength).argsort(kind="stable")[:MAX_REJECTED]]
    given = turned.rows[kind]
    rows = np.empty(len(given) + len(blocked), np.int64)
    why = np.empty(len(rows), np.int8)
    rows[: len(given)], rows[len(given) :] = given, blocked
    why[: len(given)], why[len(given) :] = turned.reasons[kind], reasons[blocked]
    return rows, why


def _broken_groups(view: AllocatorView, low: np.float32) -> I64:
    """Positions of gists that score below ``low`` and whose sibling group is incomplete.

    One position a parent, at most 32 of the lowest.
    """
    at = (view.scores < low).nonzero()[0]
    levels = view.levels[at]
    at = at[(levels > 0) & (levels < view.max_levels)]
    if len(at) == 0:
        return at
    found, size = view.candidates, view.block_size
    first = np.zeros(len(view.levels) + size, np.bool_)
    first[found.group_at[found.group_count > 1] + size] = True
    # A member of a complete group has its group's first entry as many places before it as it
    # has elder siblings.
    at = at[~first[at + size - (view.index[at] & (size - 1))]]
    if len(at) > 4 * MAX_REJECTED:
        scores = view.scores[at]
        bound = np.partition(scores, 2 * MAX_REJECTED)[2 * MAX_REJECTED]
        at = at[scores <= bound]
    at = at[view.scores[at].argsort(kind="stable")]
    parents = view.index[at] // size * (view.max_levels + 1) + view.levels[at]
    first_of: dict[int, int] = {}
    for place, parent in zip(at.tolist(), parents.tolist(), strict=True):
        first_of.setdefault(parent, place)
        if len(first_of) == MAX_REJECTED:
            break
    return np.array(list(first_of.values()), np.int64)
