"""Deliberate bugs, one canary each; the simulator must find every one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from canaries.edits import CHOICES, COMMITS, RECOVERIES, TRACES
from canaries.focus_bugs import (
    _free_running,
    a_splice_loses_an_entry,
    aligned_to_blocks_only,
    budget_off_by_one,
    cold_start_without_headroom,
    cooldown_ignored,
    cooldown_one_short,
    cooling_nodes_forced,
    force_knows_no_near_blocks,
    forced_takes_the_newest,
    half_a_sibling_group,
    headroom_ignored,
    limits_plus_one,
    limits_with,
    never_disarmed,
    no_forced_collapse,
    not_a_number_kept,
    protected_ignored,
    rearmed_by_any_score,
    reopening_frees_everything,
    reopening_knows_arms,
    reopening_knows_no_refocus,
    result_with,
    resume_forgets,
)
from canaries.plant import Patch
from canaries.storage_bugs import (
    commit_does_nothing,
    commit_with,
    counts_beyond_the_header,
    data_crc_not_checked,
    folder_not_synced,
    gist_of_wrong_children,
    lock_ignored,
    manifest_written_in_place,
    no_rollback,
    regist_keeps_old_gists,
    single_header_slot,
    slot_crc_not_checked,
    trace_actions_reversed,
    trace_crc_not_checked,
    trace_lock_ignored,
    trace_loses_rows,
)

__all__ = ["CANARIES", "Canary"]


@dataclass(frozen=True)
class Canary:
    """One bug; ``disk`` and ``record``: looked for in worlds that have such a thing; ``lives``:
    looked for by the crash runner; ``test``: no world shows it, this test does."""

    name: str
    plant: Callable[[Patch], None]
    disk: bool = False
    record: bool = False
    lives: bool = False
    slow: bool = False
    test: str | None = None


CANARIES = [
    Canary("budget off by one", budget_off_by_one),
    Canary("headroom ignored", headroom_ignored),
    Canary("no forced collapse", no_forced_collapse),
    Canary("cold start without headroom", cold_start_without_headroom),
    Canary("half a sibling group", half_a_sibling_group),
    Canary("aligned to K only", aligned_to_blocks_only),
    Canary("splice loses an entry", a_splice_loses_an_entry),
    Canary("protected ignored", protected_ignored),
    Canary("n_diff ignored", limits_plus_one("n_diff")),
    Canary("one round too many", limits_plus_one("rounds")),
    Canary("cooldown ignored", cooldown_ignored),
    Canary("cooldown one short", cooldown_one_short),
    Canary("a question reopens nothing", limits_with(lambda own: replace(own, reopen=False))),
    Canary("every refocus reopens", limits_with(lambda own: replace(own, reopen=True))),
    Canary("reopening frees everything", reopening_frees_everything),
    Canary("reopening within a refocus", reopening_knows_no_refocus),
    Canary("reopening waits for evidence", reopening_knows_arms),
    Canary("cooling nodes forced", cooling_nodes_forced),
    Canary("forced takes the newest", forced_takes_the_newest),
    Canary("forced takes near blocks", force_knows_no_near_blocks),
    Canary(
        "near blocks folded by choice",
        limits_with(lambda own: replace(own, keep_newest=own.keep_newest // 2)),
    ),
    Canary("never disarmed", never_disarmed),
    Canary("re-armed by any score", rearmed_by_any_score),
    Canary("resume forgets", resume_forgets),
    Canary("actions in wrong order", result_with(actions=lambda r: r.actions[::-1].copy())),
    Canary("stale budget_used", result_with(budget_used=lambda r: r.budget_used + 1)),
    Canary("scores of other nodes", result_with(scores=lambda r: np.roll(r.scores, 1))),
    Canary("NaN kept", not_a_number_kept),
    Canary("not deterministic", _free_running),
    Canary("commit without first sync", commit_with(1), disk=True),
    Canary("commit without second sync", commit_with(2), disk=True),
    Canary("slot before data", commit_with(1, late=True), disk=True),
    Canary("single header slot", single_header_slot, lives=True),
    Canary("data CRC not checked", data_crc_not_checked, lives=True),
    Canary("slot CRC not checked", slot_crc_not_checked, lives=True),
    Canary("recovery counts beyond header", counts_beyond_the_header, disk=True),
    Canary("commit does nothing", commit_does_nothing, disk=True),
    Canary("manifest in place", manifest_written_in_place, lives=True),
    Canary("folder not synced", folder_not_synced, disk=True),
    Canary("lock ignored", lock_ignored, disk=True),
    Canary("no rollback", no_rollback),
    Canary("gist of wrong children", gist_of_wrong_children),
    Canary("regist keeps old gists", regist_keeps_old_gists, disk=True),
    Canary("trace loses rows", trace_loses_rows, record=True),
    Canary("trace actions reversed", trace_actions_reversed, record=True),
    Canary("trace CRC not checked", trace_crc_not_checked, disk=True, record=True, slow=True),
    Canary("trace lock ignored", trace_lock_ignored, disk=True, record=True),
]
_QUICK = frozenset(
    {
        "oldest expansion wins ties",
        "dearest group pays",
        "one action too few",
        "never re-armed",
        "keys are not committed",
        "the commit's checksum runs on",
        "closing does not commit",
        "left context one short",
        "rows of a batch out of order",
    }
)
"""Of the edits, those that every test run plants; the others are marked slow."""


def _edits(family: dict[str, Callable[[Patch], None]], **where: bool) -> list[Canary]:
    return [Canary(n, plant, slow=n not in _QUICK, **where) for n, plant in family.items()]


CANARIES += _edits(CHOICES)
CANARIES += _edits(COMMITS, disk=True)
CANARIES += _edits(RECOVERIES, disk=True)
CANARIES += _edits(TRACES, record=True)
