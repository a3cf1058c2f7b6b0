"""Many drawn worlds, for as long as wanted: the volume part of the simulator."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.config import WorldConfig, draw_config
from megacontext.simulator.crashes import CrashReport, broken_lives, strike
from megacontext.simulator.drive import draw_operations
from megacontext.simulator.failures import Failure, failure_of, muted_warnings
from megacontext.simulator.operations import Operation
from megacontext.simulator.world import World

__all__ = ["EXPECTED", "FuzzReport", "fuzz", "run_world", "seeds_from"]

_REPEAT = 16
"""Every so many worlds one is run again and must give the same hash."""

_OPERATIONS_A_LIFE = 96
"""After so many operations of worlds comes one broken life of a tree: about a third of the time.
Storage has its own budget, as few worlds lie on a disk and most of their time is not storage's."""

_WORLD_OPERATIONS = {
    "ram": (80, 160, 320, 1280),
    "disk": (40, 80, 120, 160),
    "resumes": (40, 80, 120, 160),
    "records": (40, 80, 120, 160),
}
"""Lengths of worlds in turn: short ones reach many configurations, long ones reach depth. An
operation on disk costs five times one in memory, and a resume as much as all before it, as does a
fault that makes the whole trace be read."""
_MANY_RESUMES = 10  # the weight that makes it such a world

EXPECTED: tuple[str, ...] = (
    "level_0",
    "level_1",
    "level_2",
    "level_3",
    "level_4",
    "budget_full",
    "budget_cut_below_cost",
    "forced_collapse",
    "forced_kept",
    "appended_as_gists",
    "cold_start",
    "settled",
    "resumed",
    "question",
    "compared_after_question",
    "reopened_cooling",
    "reopened_unarmed",
    "regist",
    "reason_score",
    "reason_pair",
    "reason_headroom",
    "reason_forced_override",
    "reject_budget",
    "reject_cooldown",
    "reject_n_diff",
    "reject_protected",
    "reject_illegal",
    "reject_not_rearmed",
    "reject_gain",
    "crashed",
    "error_reported",
    "recovery_dropped_tail",
    "recovery_slot_0",
    "recovery_slot_1",
    "recovery_fell_back",
    "trace_recovered_prefix",
    "bit_flip_detected",
    "trace_bit_flip_detected",
    "second_writer_refused",
    "gist_failure",
    "regist_failed",
    "commit_inside_a_look",
    "keys_reopened",
    "slow_trace_dropped_scores",
)
"""What must happen at least once in a fuzz run, or the run proves nothing."""


@dataclass
class FuzzReport:
    """What a fuzz run did.

    Args:
        crashes: broken lives of a tree.
        seconds: all of it; ``world_seconds``: without the broken lives.
    """

    worlds: int = 0
    steps: int = 0
    rounds: int = 0
    operations: int = 0
    crashes: int = 0
    seconds: float = 0.0
    world_seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    sometimes: Counter[str] = field(default_factory=Counter)

    def take(self, storage: CrashReport) -> None:
        """Move what the crash runner found over here."""
        self.crashes += storage.runs.total()
        self.sometimes.update(storage.happened)
        self.failures += storage.failures
        storage.clear()

    @property
    def steps_per_s(self) -> float:
        """Refocuses in a second of the worlds' own time."""
        return self.steps / self.world_seconds if self.world_seconds else 0.0

    @property
    def crashes_per_s(self) -> float:
        """Broken lives in a second of their own time."""
        crash_seconds = self.seconds - self.world_seconds
        return self.crashes / crash_seconds if crash_seconds else 0.0

    @property
    def never(self) -> list[str]:
        """The expected conditions that did not happen."""
        return [name for name in EXPECTED if not self.sometimes[name]]

    def to_json(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "steps_per_s": round(self.steps_per_s, 1),
            "crashes_per_s": round(self.crashes_per_s, 1),
            "worlds": self.worlds,
            "steps": self.steps,
            "rounds": self.rounds,
            "operations": self.operations,
            "crashes": self.crashes,
            "seconds": round(self.seconds, 2),
            "failures": len(self.failures),
            "sometimes": {name: self.sometimes[name] for name in sorted(self.sometimes)},
            "never": self.never,
        }


def seeds_from(seed: int) -> Iterator[int]:
    """World seeds of a fuzz run: ``seed``'s own, endless range."""
    return itertools.count(seed * 1_000_003)


def _kind(config: WorldConfig) -> str:
    """What says how long a world may be."""
    if config.features.get("resume", 0) >= _MANY_RESUMES:
        return "resumes"
    return "records" if config.record else config.storage


def run_world(
    config: WorldConfig, operations: Iterator[Operation], report: FuzzReport
) -> Failure | None:
    """Drive one world to its end and add what happened to ``report``."""
    done: list[Operation] = []
    world: World | None = None
    failure = None

    try:
        world = World(config)
        for operation in operations:
            done.append(operation)
            world.do(operation)
        digest = world.finish()

        # Equal operations must give an equal digest; a sample, as it doubles the time.
        if report.worlds % _REPEAT == 0:
            _same_again(config, done, digest)
    except Exception as error:  # whatever it is, it is what this program looks for
        failure = failure_of(config, done, error)
        report.failures.append(failure)

    # A world that failed counts, too: the report says how much was tried.
    report.worlds += 1
    report.operations += len(done)
    if world is not None:
        report.steps += world.steps
        report.rounds += world.rounds
        report.sometimes.update(world.sometimes)
        report.sometimes.update({f"level_{level}": 1 for level in set(world.shadow.levels)})
    return failure


def _same_again(config: WorldConfig, operations: list[Operation], digest: str) -> None:
    world = World(config)
    for operation in operations:
        world.do(operation)
    if world.finish() != digest:
        raise InvariantError("determinism", "the same seed and operations gave another hash")


def fuzz(
    seed: int,
    *,
    seconds: float | None = None,
    worlds: int | None = None,
    max_failures: int = 1,
    progress: Callable[[FuzzReport], None] | None = None,
    only: Callable[[WorldConfig], bool] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> FuzzReport:
    """Draw worlds until the time is up, their number is reached or enough of them failed.

    Args:
        only: leave out the drawn worlds that it is False for.
        clock: what the seconds are read from; ``time.process_time`` counts CPU seconds.
    """
    report = FuzzReport()
    storage = CrashReport()
    lives = broken_lives(seed)
    started, owed = clock(), 0
    with muted_warnings():
        for world_seed in seeds_from(seed):
            report.seconds = clock() - started
            if worlds is not None and report.worlds >= worlds:
                break
            if seconds is not None and report.seconds >= seconds:
                break
            config = draw_config(world_seed)
            if only is not None and not only(config):
                continue
            lengths = _WORLD_OPERATIONS[_kind(config)]
            length = lengths[report.worlds % len(lengths)]
            begun, before = clock(), report.operations
            run_world(config, draw_operations(config, length), report)
            report.world_seconds += clock() - begun

            # A count, not a time, so that a seed always meets the same lives.
            owed += report.operations - before
            due, owed = divmod(owed, _OPERATIONS_A_LIFE)
            for name, small, operations in islice(lives, due):
                if len(report.failures) + len(storage.failures) >= max_failures:
                    break
                strike(name, small, operations, storage)
            report.take(storage)
            if progress is not None:
                progress(report)
            if len(report.failures) >= max_failures:
                break
    report.seconds = clock() - started
    return report
