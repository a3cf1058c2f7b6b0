"""The best candidates that a round rejected, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from megacontext.core.focus.actions import COLLAPSE, EXPAND, F32, I8, I64, REJECTED_DTYPE, Actions
from megacontext.core.focus.constraints import OPEN
from megacontext.core.focus.view import AllocatorView
from megacontext.traces.schema import MAX_REJECTED, Reason

__all__ = ["RuledOut", "rejections"]


@dataclass(slots=True)
class RuledOut:
    """Candidate rows that a policy or :func:`.grant.grant` ruled out, by kind."""

    rows: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    reasons: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))

    def add(self, kind: int, row: int, reason: int) -> None:
        self.rows[kind].append(row)
        self.reasons[kind].append(reason)

    def rest(self, kinds: list[int], rows: list[int], granted: list[tuple[int, int, int]]) -> None:
        """Rule out the rest of the requests for ``N_DIFF``, but for ``granted`` groups."""
        used = {row for kind, row, _ in granted if kind == COLLAPSE}
        for kind in (EXPAND, COLLAPSE):
            more = [row for row, of in zip(rows, kinds, strict=True) if of == kind]
            if kind == COLLAPSE:
                more = [row for row in more if row not in used]
            self.rows[kind].extend(more)
            self.reasons[kind].extend([Reason.N_DIFF] * len(more))


def rejections(view: AllocatorView, excluded: RuledOut) -> Actions:
    """REJECTED_DTYPE[<= 32], strongest score first.

    What was ruled out, what the constraints forbid although its score is beyond a threshold,
    and parents of low-scoring gists whose siblings are not all in the frontier.
    """
    candidates = view.candidates
    low = np.float32(-view.limits.tau_collapse)

    # What was ruled out, and what the constraints block, of both kinds.
    blocked = (candidates.expand_reason > OPEN).nonzero()[0]
    expand_rows, reason_expand = _merge(
        excluded, EXPAND, blocked, candidates.expand_score, candidates.expand_reason
    )
    blocked = ((candidates.group_reason > OPEN) & (candidates.group_score < low)).nonzero()[0]
    groups, reason_group = _merge(
        excluded, COLLAPSE, blocked, candidates.group_score, candidates.group_reason
    )
    broken = _broken_groups(view, low)

    # One array: expands first, then complete groups, then incomplete ones.
    first, second = len(expand_rows), len(expand_rows) + len(groups)
    rejected = np.empty(second + len(broken), REJECTED_DTYPE)
    kind, level, index = rejected["kind"], rejected["level"], rejected["index"]
    score, reason = rejected["score"], rejected["reason"]
    kind[:first], kind[first:] = EXPAND, COLLAPSE
    if first:
        at = candidates.expand_at[expand_rows]
        level[:first], index[:first] = view.levels[at], view.index[at]
        score[:first], reason[:first] = candidates.expand_score[expand_rows], reason_expand
    if second > first:
        part = slice(first, second)
        level[part], index[part] = candidates.group_level[groups], candidates.group_index[groups]
        score[part], reason[part] = candidates.group_score[groups], reason_group
    if len(broken):
        level[second:] = view.levels[broken] + 1
        index[second:] = view.index[broken] // view.block_size
        score[second:], reason[second:] = view.scores[broken], Reason.ILLEGAL

    # The strongest scores.
    if len(rejected) < 2:
        return rejected
    best: Actions = rejected[(-np.abs(score)).argsort(kind="stable")[:MAX_REJECTED]]
    return best


def _merge(excluded: RuledOut, kind: int, blocked: I64, scores: F32, reasons: I8) -> tuple[I64, I8]:
    """Rows that were ruled out and the strongest of the blocked ones, with reasons."""
    if len(blocked) > MAX_REJECTED:
        abs_score = np.abs(scores[blocked])
        blocked = blocked[(-abs_score).argsort(kind="stable")[:MAX_REJECTED]]
    policy_rows = excluded.rows[kind]
    if not policy_rows:
        return blocked, reasons[blocked]
    rows = np.empty(len(policy_rows) + len(blocked), np.int64)
    merged_reasons = np.empty(len(rows), np.int8)
    rows[: len(policy_rows)], rows[len(policy_rows) :] = policy_rows, blocked
    merged_reasons[: len(policy_rows)], merged_reasons[len(policy_rows) :] = (
        excluded.reasons[kind],
        reasons[blocked],
    )
    return rows, merged_reasons


def _broken_groups(view: AllocatorView, low: np.float32) -> I64:
    """Positions of gists that score below ``low`` and whose sibling group is incomplete.

    One position a parent, at most 32 of the lowest.
    """
    at = (view.scores < low).nonzero()[0]
    levels = view.levels[at]
    at = at[(levels > 0) & (levels < view.max_levels)]
    if len(at) == 0:
        return at

    candidates, size = view.candidates, view.block_size
    first = np.zeros(len(view.levels) + size, np.bool_)
    first[candidates.group_at[candidates.group_count > 1] + size] = True
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
    for position, parent in zip(at.tolist(), parents.tolist(), strict=True):
        first_of.setdefault(parent, position)
        if len(first_of) == MAX_REJECTED:
            break
    return np.array(list(first_of.values()), np.int64)
