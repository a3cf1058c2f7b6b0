"""Deliberate bugs, planted one at a time: the fuzz loop must find each of them, and fast.

``canary_table.py`` beside this file makes the table of ``docs/simulator.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import pytest
from canaries import CANARIES, Canary

from megacontext.simulator.config import WorldConfig, draw_config
from megacontext.simulator.crashes import broken_lives
from megacontext.simulator.drive import draw_operations
from megacontext.simulator.failures import Failure, attempt, muted_warnings, shrink_failure
from megacontext.simulator.fuzz import FuzzReport, run_world

MAX_STEPS = 8_000
"""Refocuses within which every canary must be found."""
MAX_LIVES = 3_000
"""Broken lives of a tree within which the crash runner must find it."""


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.name)
def test_every_bug_can_still_be_planted(canary: Canary) -> None:
    """A renamed function or an edited line leaves a bug that nobody plants."""
    with pytest.MonkeyPatch.context() as m:
        canary.plant(m)


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
    with muted_warnings():
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
    with muted_warnings():
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
    caught = hunt(canary)
    assert caught is not None, f"{canary.name} survived {MAX_STEPS} steps"
    broken = ("AttributeError", "NameError", "TypeError")
    assert caught.failure.kind not in broken, f"{canary.name} no longer fits: {caught.failure}"


def test_a_canary_shrinks_to_a_short_list() -> None:
    canary = next(c for c in CANARIES if c.name == "cooldown ignored")
    caught = hunt(canary)
    assert caught is not None
    short = shrunk(canary, caught.failure)
    assert len(short.operations) <= 12
    assert short.kind == caught.failure.kind
