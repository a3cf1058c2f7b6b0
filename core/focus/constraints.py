"""The vectorized masks that all allocators share: which gists may expand, which groups collapse.

A *group* is the set of entries that one collapse replaces: one raw block, or K complete sibling
gists. Every frontier entry belongs to at most one group, so all open groups of a frontier could
collapse in the same plan, and each frees exactly K - 1 entries.

The score of a group is the maximum over its members: it may collapse only if all of them score low.
A mean would be low if one member is needed and its K - 1 siblings are not. The maximum also makes
the gain of detail concave (collapsing a group loses at least as much as its best member could
gain), so the optimal allocator is exact by sorting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.core.focus.actions import EXPAND, F32, I8, I64, Bools
from megacontext.traces.schema import Reason

__all__ = [
    "OPEN",
    "TAKEN",
    "Candidates",
    "Cooldowns",
    "find_candidates",
    "order_key",
    "raw_since",
]

OPEN = -1
"""Reason of a candidate that nothing forbids."""
_NONE = np.empty(0, np.int64)
TAKEN = -2
"""Reason of a group that a forced collapse of the same round uses."""


@dataclass(frozen=True, slots=True)
class Cooldowns:
    """Nodes that changed recently: ``kinds`` I8[c], ``levels`` I64[c], ``index`` I64[c]."""

    kinds: I8
    levels: I64
    index: I64

    def expanded(self) -> Cooldowns:
        """Those of them that were expanded."""
        keep = self.kinds == EXPAND
        return Cooldowns(self.kinds[keep], self.levels[keep], self.index[keep])


@dataclass(slots=True)
class Candidates:
    """Gists with scores above the threshold and all groups, each with ``OPEN`` or the reason that
    forbids its action.

    Attributes:
        expand_at: I64[e], frontier positions of gists that score above ``tau_expand``.
        expand_score: F32[e].
        expand_reason: I8[e].
        group_at: I64[g], position of a group's first member.
        group_count: I64[g], members: 1 (raw block) or K.
        group_level, group_index: I8[g], I64[g], the gist that a collapse makes.
        group_score: F32[g], maximum over the members.
        group_reason: I8[g].
    """

    expand_at: I64
    expand_score: F32
    expand_reason: I8
    group_at: I64
    group_count: I64
    group_level: I8
    group_index: I64
    group_score: F32
    group_reason: I8


def order_key(scores: F32, positions: I64) -> I64:
    """Sortable I64 keys, unique per position: by score, then by position (older is smaller).

    Float16 scores are whole multiples of 2**-24, so the order is exact; positions < 2**20.
    """
    keys: I64 = (scores * np.float64(1 << 24)).astype(np.int64) * (1 << 20) + positions
    return keys


def find_candidates(
    levels: I8,
    index: I64,
    starts: I64,
    scores: F32,
    *,
    tau_expand: float,
    block_size: int,
    max_levels: int,
    protected_blocks: int,
    disarmed: Bools | None,
    cooling: Cooldowns | None,
) -> Candidates:
    """All candidates of one frontier; ``scores`` F32[n], ``disarmed`` bool[n] or None for none.

    The newest ``protected_blocks`` entries are the protected raw blocks: their groups get
    ``PROTECTED``. Groups whose parent would exceed ``max_levels`` do not exist.
    """
    expand_at = ((scores > np.float32(tau_expand)) & (levels > 0)).nonzero()[0]
    expand_reason = np.empty(len(expand_at), np.int8)
    expand_reason.fill(OPEN)  # np.full takes three times as long
    if disarmed is not None and len(expand_at):
        expand_reason[disarmed[expand_at]] = Reason.NOT_REARMED

    # Groups: single raw blocks first, then complete groups of K gists.
    raw_at = (levels == 0).nonzero()[0]
    raw_nodes = len(raw_at)
    first = _gist_groups(levels, index, block_size, max_levels)
    group_at = np.concatenate([raw_at, first]) if len(first) else raw_at
    group_count = np.empty(len(group_at), np.int64)
    group_count[:raw_nodes] = 1
    group_count[raw_nodes:] = block_size
    group_score = scores[group_at]
    group_index = index[group_at]
    if len(first):
        members = scores[first[:, None] + np.arange(block_size)]
        group_score[raw_nodes:] = members.max(axis=1)
        group_index[raw_nodes:] //= block_size

    # What the constraints forbid.
    group_reason = np.empty(len(group_at), np.int8)
    group_reason.fill(OPEN)
    candidates = Candidates(
        expand_at=expand_at,
        expand_score=scores[expand_at],
        expand_reason=expand_reason,
        group_at=group_at,
        group_count=group_count,
        group_level=levels[group_at] + np.int8(1),
        group_index=group_index,
        group_score=group_score,
        group_reason=group_reason,
    )

    if cooling is not None and len(cooling.kinds):
        _cool(candidates, levels, starts, block_size, cooling)
    if protected_blocks:  # the newest entries, all raw
        group_reason[max(0, raw_nodes - protected_blocks) : raw_nodes] = Reason.PROTECTED
    return candidates


def raw_since(candidates: Candidates, block: int) -> Bools:
    """Which groups are raw blocks with this number or a higher one: bool[g]."""
    near: Bools = (candidates.group_count == 1) & (candidates.group_index >= block)
    return near


def _gist_groups(levels: I8, index: I64, block_size: int, max_levels: int) -> I64:
    """Positions of the first members of complete groups of K gists.

    Neighbours of one level in a tiling are consecutive nodes, so the groups of a run of equal
    levels follow from its first index and its length.
    """
    entries = len(levels)
    if entries < block_size:
        return _NONE
    change = (levels[1:] != levels[:-1]).nonzero()[0]
    begin = np.zeros(len(change) + 1, np.int64)
    begin[1:] = change + 1
    stop = np.empty(len(begin), np.int64)
    stop[:-1] = begin[1:]
    stop[-1] = entries
    level = levels[begin]

    # Runs that are long enough, from their first multiple of K on.
    long = ((stop - begin >= block_size) & (level > 0) & (level < max_levels)).nonzero()[0]
    if len(long) == 0:
        return _NONE
    begin = begin[long]
    begin += -index[begin] & (block_size - 1)
    counts = np.maximum((stop[long] - begin) // block_size, 0)
    offset = np.arange(int(counts.sum())) - (counts.cumsum() - counts).repeat(counts)
    first: I64 = begin.repeat(counts) + block_size * offset
    return first


def _cool(
    candidates: Candidates, levels: I8, starts: I64, block_size: int, cooling: Cooldowns
) -> None:
    """Forbid candidates that would reverse the last change of a node in cooldown."""
    bits = block_size.bit_length() - 1
    begin = cooling.index << (bits * cooling.levels)
    at = starts.searchsorted(begin)
    at[at == len(starts)] = 0  # beyond the frontier: no start matches
    # A collapsed node is in the frontier itself, an expanded one as children one level finer.
    expanded = cooling.kinds == EXPAND
    present_level = cooling.levels - expanded
    present = (starts[at] == begin) & (levels[at] == present_level)

    # Neither may change back.
    mask = np.zeros(len(levels), np.bool_)
    mask[at[present & ~expanded]] = True
    candidates.expand_reason[mask[candidates.expand_at]] = Reason.COOLDOWN
    mask = np.zeros(len(levels), np.bool_)
    mask[at[present & expanded]] = True
    candidates.group_reason[mask[candidates.group_at]] = Reason.COOLDOWN
