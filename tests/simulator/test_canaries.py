"""Deliberate bugs, planted one at a time: the fuzz loop must find each of them, and fast.

``python tests/simulator/test_canaries.py`` prints the table of ``docs/simulator.md``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from megacontext.core.focus import Limits, packing, plan, working_context
from megacontext.core.focus import focus as focus_module
from megacontext.core.focus.focus import Focus
from megacontext.core.focus.memory import Memory
from megacontext.core.focus.working_context import WorkingContext
from megacontext.core.tree import folder, header
from megacontext.core.tree import tree as tree_module
from megacontext.core.tree.buffer import RamRows
from megacontext.core.tree.ctxfile import CtxFile
from megacontext.core.tree.folder import TreeFolder
from megacontext.core.tree.tree import Tree
from megacontext.simulator.config import WorldConfig, draw_config
from megacontext.simulator.crashes import broken_lives
from megacontext.simulator.drive import draw_operations
from megacontext.simulator.failures import Failure, attempt, quiet, shrink_failure
from megacontext.simulator.fuzz import FuzzReport, run_world
from megacontext.traces.writer import TraceWriter

Patch = pytest.MonkeyPatch
MAX_STEPS = 8_000
"""Refocuses within which every canary must be found."""
MAX_LIVES = 3_000
"""Broken lives of a tree within which the crash runner must find it."""


class Proxy:
    """Everything as in ``inner``, but for the methods given."""

    def __init__(self, inner: Any, **methods: Any) -> None:
        self.__dict__.update(methods, inner=inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def no(*_: Any, **__: Any) -> None:
    """Does nothing."""


def wrap(m: Patch, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace ``owner.name`` by ``make(original)``."""
    m.setattr(owner, name, make(getattr(owner, name)))


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
            return forced, replace(view, room=view.room + 1)

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
            room = self._w_max - n_tokens % size
            levels = packing.fill_levels(0, n_tokens // size, room, *self._packing())
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
            disarmed = self._memory.armed_out()
            if disarmed is not None and self._round_limits.reopen and not forced:
                found = view.candidates
                found.expand_reason[disarmed[found.expand_at] & (found.expand_reason == -1)] = 21
            return forced, view

        return mutant

    wrap(m, Focus, "_force", force)


def cooling_nodes_forced(m: Patch) -> None:
    """Forced collapses take cooling nodes as readily as others."""

    def choose(original: Any) -> Any:
        def mutant(found: Any, count: int) -> Any:
            reasons = found.group_reason
            reasons[reasons == 17] = -1
            return original(found, count)

        return mutant

    wrap(m, focus_module, "choose_forced", choose)


def forced_takes_the_newest(m: Patch) -> None:
    def choose(original: Any) -> Any:
        def mutant(found: Any, count: int) -> Any:
            rows, override = original(found, 1 << 20)
            return rows[::-1][:count], override

        return mutant

    wrap(m, focus_module, "choose_forced", choose)


def never_disarmed(m: Patch) -> None:
    m.setattr(Memory, "armed_out", no)


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
            return forced, replace(view, room=min(view.room, next(ticks) % 7))

        return mutant

    wrap(m, Focus, "_force", propose)


# -- tree and disk -----------------------------------------------------------------------------


def commit_with(skip: int, late: bool = False) -> Callable[[Patch], None]:
    """A commit without its ``skip``-th sync; with ``late`` that sync comes at the end."""

    def plant(m: Patch) -> None:
        def commit(original: Any) -> Any:
            def mutant(self: CtxFile) -> None:
                real, calls = self._handle, count(1)

                def datasync() -> None:
                    if next(calls) != skip:
                        real.datasync()

                self._handle = Proxy(real, datasync=datasync)  # type: ignore[assignment]
                try:
                    original(self)
                finally:
                    self._handle = real
                    if late:
                        real.datasync()

            return mutant

        wrap(m, CtxFile, "commit", commit)

    return plant


def single_header_slot(m: Patch) -> None:
    def put(self: CtxFile, new: Any) -> None:
        self._handle.pwrite(0, header.encode(new))
        self._handle.datasync()
        self._header = new

    m.setattr(CtxFile, "_put", put)


def data_crc_not_checked(m: Patch) -> None:
    m.setattr(CtxFile, "_commit_is_intact", lambda self: True)


def slot_crc_not_checked(m: Patch) -> None:
    def decode(original: Any) -> Any:
        def mutant(slot: bytes, where: str) -> Any:
            return original(slot[:-4] + zlib.crc32(slot[:-4]).to_bytes(4, "little"), where)

        return mutant

    wrap(m, header, "decode", decode)


def counts_beyond_the_header(m: Patch) -> None:
    """Recovery believes the size of the file instead of the header."""

    def open_(original: Any) -> Any:
        def mutant(files: Any, path: Any, write: bool, fix: str) -> Any:
            file = original(files, path, write, fix)
            file.count = max(file.count, (file._handle.size() - 8192) // file._stride)
            return file

        return staticmethod(mutant)

    wrap(m, CtxFile, "open", open_)


def commit_does_nothing(m: Patch) -> None:
    m.setattr(Tree, "commit", lambda self: setattr(self, "_committed", self._n_tokens))


def manifest_written_in_place(m: Patch) -> None:
    def write(original: Any) -> Any:
        def mutant(files: Any, where: Any, manifest: Any) -> None:
            def open_(path: Any, **options: Any) -> Any:
                return files.open(path.with_name("manifest.json"), **options)

            original(Proxy(files, open=open_, rename=no), where, manifest)

        return mutant

    wrap(m, folder, "write_manifest", write)


def folder_not_synced(m: Patch) -> None:
    def publish(original: Any) -> Any:
        def mutant(self: TreeFolder, manifest: Any) -> None:
            real = self.files
            self.files = Proxy(real, sync_folder=no)  # type: ignore[assignment]
            try:
                original(self, manifest)
            finally:
                self.files = real

        return mutant

    wrap(m, TreeFolder, "publish", publish)


def lock_ignored(m: Patch) -> None:
    m.setattr(TreeFolder, "take_lock", no)


def no_rollback(m: Patch) -> None:
    m.setattr(RamRows, "rollback", no)
    m.setattr(CtxFile, "rollback", no)


def gist_of_wrong_children(m: Patch) -> None:
    def bring(original: Any) -> Any:
        def mutant(tokens: Any, levels: Any, spec: Any, gister: Any, *rest: Any) -> None:
            def encode(level: int, children: Any) -> Any:
                return gister.encode_gists(level, children[:, ::-1].copy())

            original(tokens, levels, spec, Proxy(gister, encode_gists=encode), *rest)

        return mutant

    wrap(m, tree_module, "bring_up_to_date", bring)


def regist_keeps_old_gists(m: Patch) -> None:
    def regist(self: Tree, gister: Any, progress: Any = None) -> None:
        self.commit()
        self._gister = gister

    m.setattr(Tree, "regist", regist)


# -- trace -------------------------------------------------------------------------------------


def trace_loses_rows(m: Patch) -> None:
    wrap(m, TraceWriter, "_accept", lambda f: lambda s, row: row.step % 7 == 5 or f(s, row))


def trace_actions_reversed(m: Patch) -> None:
    def put(original: Any) -> Any:
        return lambda self, row: original(self, replace(row, actions=row.actions[::-1]))

    wrap(m, TraceWriter, "put", put)


def trace_crc_not_checked(m: Patch) -> None:
    m.setattr("megacontext.traces.reader.crc_of", lambda row: row.crc)


def trace_lock_ignored(m: Patch) -> None:
    m.setattr(TraceWriter, "_take_lock", lambda self: Proxy(self, release=no))


@dataclass(frozen=True)
class Canary:
    """One bug; ``disk`` and ``record``: looked for in worlds that have such a thing; ``lives``:
    looked for by the crash runner."""

    name: str
    plant: Callable[[Patch], None]
    disk: bool = False
    record: bool = False
    lives: bool = False
    slow: bool = False


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


@dataclass(frozen=True)
class Catch:
    """Where a canary was found."""

    failure: Failure
    worlds: int
    steps: int


def fits(canary: Canary, config: WorldConfig) -> bool:
    disk = not canary.disk or config.storage == "disk"
    return disk and (not canary.record or config.record)


def hunt(canary: Canary, max_steps: int = MAX_STEPS) -> Catch | None:
    """Fuzz with the bug planted; a catch counts only where the same world is sound without it."""
    report = FuzzReport()
    if canary.lives:
        return hunt_lives(canary)
    with quiet():
        for seed in count():
            config = draw_config(seed)
            if not fits(canary, config):
                continue
            if report.steps >= max_steps:
                return None
            length = (40, 80, 160)[report.worlds % 3]
            with pytest.MonkeyPatch.context() as m:
                canary.plant(m)
                failure = run_world(config, draw_operations(config, length), report)
            if failure is None:
                continue
            if attempt(config, failure.operations) is None:
                return Catch(failure, report.worlds, report.steps)
    return None


def hunt_lives(canary: Canary) -> Catch | None:
    """The same with the crash runner, whose worlds the fuzz loop runs beside its own."""
    with quiet():
        for number, (_, config, operations) in enumerate(broken_lives(0)):
            if number >= MAX_LIVES:
                return None
            with pytest.MonkeyPatch.context() as m:
                canary.plant(m)
                failure = attempt(config, operations)
            if failure is not None and attempt(config, operations) is None:
                return Catch(failure, number + 1, 0)
    return None


def shrunk(canary: Canary, caught: Failure) -> Failure:
    with pytest.MonkeyPatch.context() as m:
        canary.plant(m)
        return shrink_failure(caught, max_tries=250)


@pytest.mark.parametrize(
    "canary",
    [
        pytest.param(c, id=c.name.replace(" ", "-"), marks=[pytest.mark.slow] if c.slow else [])
        for c in CANARIES
    ],
)
def test_the_fuzz_loop_finds_a_planted_bug(canary: Canary) -> None:
    assert hunt(canary) is not None, f"{canary.name} survived {MAX_STEPS} steps"


def test_a_canary_shrinks_to_a_short_list() -> None:
    canary = next(c for c in CANARIES if c.name == "cooldown ignored")
    caught = hunt(canary)
    assert caught is not None
    short = shrunk(canary, caught.failure)
    assert len(short.operations) <= 12
    assert short.kind == caught.failure.kind


def main() -> None:
    """Print the table of the documentation."""
    print("| canary | caught by | worlds | steps | shrunk to |\n|---|---|---:|---:|---:|")
    for canary in CANARIES:
        caught = hunt(canary)
        if caught is None:
            print(f"| {canary.name} | **survived** | | {MAX_STEPS} | |", flush=True)
            continue
        short = shrunk(canary, caught.failure)
        print(
            f"| {canary.name} | {caught.failure.kind} | {caught.worlds} | {caught.steps} | "
            f"{len(short.operations)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
