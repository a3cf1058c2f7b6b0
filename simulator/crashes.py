"""Many crashes of the storage: each run breaks one short life of a tree at one call.

A life is a list of appends, commits, regists and reopenings on the simulated disk. A dry run
counts its calls; then faults strike at drawn calls among them, the disk keeps what its fate says,
and the tree that comes back is compared with what was written and what was promised.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from megacontext.core.rng import generator
from megacontext.simulator.config import WorldConfig
from megacontext.simulator.failures import Failure, failure_of, muted_warnings
from megacontext.simulator.operations import Operation
from megacontext.simulator.world import World

__all__ = ["STORAGE_FAULTS", "CrashReport", "broken_lives", "crash_run", "draw_life", "strike"]

STORAGE_FAULTS = (
    "kill",
    "lost_sectors",
    "torn_tail",
    "lost_fsync",
    "lost_fsync",  # what it leaves needs more tries than the others
    "failed_fsync",
    "bit_flip",
    "enospc",
    "eio",
    "interrupted_recovery",
    "reader_beside",
    "commit_beside",
    "gist_failure",
)

_STRIKES_A_LIFE = 16
_A_TRACE_EVERY = 8  # one costs four lives of a tree
_TRACE_FAULTS = (
    "kill",
    "torn_tail",
    "enospc",
    "eio",
    "trace_disk_full",
    "slow_trace_disk",
    *["trace_bit_flip"] * 6,
)
_PARTS = {
    "lost_fsync": 0.3,
    "failed_fsync": 0.3,
    "enospc": 0.3,
    "gist_failure": 0.1,
    "trace_disk_full": 0.04,
}
"""The part of a life's calls among which the n-th is drawn, for faults that see not all of them."""


@dataclass
class CrashReport:
    """Counts by fault.

    Args:
        runs: lives broken.
        struck: of these, the fault really hit a call.
        dropped: uncommitted tokens were lost, as they may be.
        happened: everything else that was counted.
    """

    runs: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def clear(self) -> None:
        """Forget everything."""
        for counter in (self.runs, self.struck, self.dropped, self.happened):
            counter.clear()
        self.failures = []

    def table(self) -> list[tuple[str, int, int, int, int]]:
        """(fault, runs, struck, tails dropped, failures) for every fault."""
        failed = Counter(
            str(op[1]) for failure in self.failures for op in failure.operations if op[0] == "fault"
        )
        return [
            (name, self.runs[name], self.struck[name], self.dropped[name], failed[name])
            for name in dict.fromkeys((*STORAGE_FAULTS, *_TRACE_FAULTS))
        ]


def draw_life(seed: int, number: int) -> tuple[WorldConfig, list[Operation]]:
    """A small tree and what happens to it, or, every eighth time, a short trace."""
    draw = _draw_trace_life if number % _A_TRACE_EVERY == 0 else _draw_tree_life
    return draw(seed, number)


def _draw_trace_life(seed: int, number: int) -> tuple[WorldConfig, list[Operation]]:
    rng = generator(seed, "crash.trace", number)
    size = 1 << int(rng.integers(1, 4))
    config = WorldConfig(
        seed=number,
        block_size=size,
        max_levels=int(rng.integers(1, 4)),
        w_max=64,
        storage="disk",
        record=True,
        features={"resume": 0},
    )
    life: list[Operation] = []
    for _ in range(int(rng.integers(4, 24))):
        life += [["append", int(rng.integers(1, 2 * size))], ["refocus"]]
        if rng.random() < 0.2:
            life.append(["marker", int(rng.integers(0, 100))])
        if rng.random() < 0.2:
            life.append(["question", 1 + int(rng.integers(8)), 1 + int(rng.integers(3))])
    return config, life


def _draw_tree_life(seed: int, number: int) -> tuple[WorldConfig, list[Operation]]:
    rng = generator(seed, "crash.life", number)
    size = 1 << int(rng.integers(1, 5))

    config = WorldConfig(
        seed=number,
        stream="uniform",
        lens="static",
        block_size=size,
        max_levels=int(rng.integers(1, 4)),
        w_max=1024,
        storage="disk",
        features={"resume": 0},
        heads=bool(rng.random() < 0.3),
    )

    # A life is short, because many faults are tried on each.
    life: list[Operation] = []
    for _ in range(int(rng.integers(3, 8))):
        life.append(["append", int(rng.integers(1, 6 * size))])
        kind = rng.random()
        if kind < 0.6:
            life.append(["commit"])
        elif kind < 0.75:
            life.append(["regist", int(rng.integers(0, 100))])
        elif kind < 0.85:
            life.append(["reopen"])
    return config, [*life, ["commit"]]


def _calls(config: WorldConfig, life: list[Operation]) -> int:
    """File-layer calls of an undisturbed life, the tree's creation left out."""
    try:
        world = World(config)
    except Exception:  # it fails without a fault, which the life itself will show
        return 1
    before = world.disk.calls
    with suppress(Exception):
        for operation in life:
            world.do(operation)
    return world.disk.calls - before


def broken_lives(seed: int) -> Iterator[tuple[str, WorldConfig, list[Operation]]]:
    """Without end: (fault, world, operations): the fault, the life, a power cut, and what comes
    after it."""
    for number in itertools.count():
        config, life = draw_life(seed, number)
        rng = generator(seed, "crash.strikes", number)
        calls = _calls(config, life)
        for _ in range(_STRIKES_A_LIFE):
            faults = _TRACE_FAULTS if config.record else STORAGE_FAULTS
            name = faults[int(rng.integers(len(faults)))]
            nth = 1 + int(rng.integers(max(1, int(calls * _PARTS.get(name, 0.8)))))
            salt, other = rng.integers(1 << 16, size=2).tolist()
            fault: Operation = ["fault", name, nth, salt]
            at = 0
            if name in ("bit_flip", "trace_bit_flip", "slow_trace_disk"):
                at = other % len(life)  # these strike at once, so something has to be there
            end: list[Operation] = [["crash", other, (0, 50, 90)[other % 3]]]
            end += [["append", 1 + other % (3 * config.block_size)], ["refocus"], ["commit"]]
            yield name, config, [*life[:at], fault, *life[at:], *end]


def crash_run(
    count: int,
    seed: int = 0,
    *,
    max_failures: int = 5,
    progress: Callable[[int], None] | None = None,
) -> CrashReport:
    """Break ``count`` lives; stops early after ``max_failures``."""
    report = CrashReport()
    with muted_warnings():
        for done, (name, config, operations) in enumerate(broken_lives(seed)):
            if done >= count or len(report.failures) >= max_failures:
                break
            strike(name, config, operations, report)
            if progress is not None:
                progress(done + 1)
    return report


_STRUCK = ("killed", "error_reported", "bit_flip_detected", "bit_flip_harmless")
_STRUCK_BY = {
    "trace_bit_flip": ("trace_bit_flip_detected", "trace_bit_flip_harmless"),
    "slow_trace_disk": ("slow_trace_dropped_scores", "slow_trace_kept_scores"),
    "reader_beside": ("read_beside",),
    "commit_beside": ("commit_inside_a_look",),
    "interrupted_recovery": ("recovery_interrupted", "recovery_failed"),
    "gist_failure": ("gist_failure", "regist_failed"),
}
"""What says in a world that a fault really struck: any of the first, or of its own."""


def strike(
    name: str, config: WorldConfig, operations: list[Operation], report: CrashReport
) -> None:
    """Live one broken life and add what happened to ``report``."""
    report.runs[name] += 1
    world: World | None = None
    try:
        world = World(config)
        for operation in operations:
            world.do(operation)
        world.finish()
    except Exception as error:  # whatever it is, it is what this program looks for
        report.failures.append(failure_of(config, operations, error))
    if world is None:
        return
    seen = world.sometimes
    report.struck[name] += any(seen[what] for what in (*_STRUCK, *_STRUCK_BY.get(name, ())))
    report.dropped[name] += bool(seen["recovery_dropped_tail"])
    report.happened.update(seen)
