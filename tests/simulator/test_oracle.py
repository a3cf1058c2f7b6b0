"""The bounds: the tree knapsack against brute force, and the order of the three bounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from megacontext.core.rng import generator
from megacontext.simulator.config import POLICIES, WorldConfig
from megacontext.simulator.metrics import Meter
from megacontext.simulator.oracle.clairvoyant import Clairvoyant
from megacontext.simulator.oracle.evaluate import clairvoyant_utility, evaluate, measure
from megacontext.simulator.oracle.exact import Frontier, Tiny, exact_utility, utility_of
from megacontext.simulator.oracle.optimum import Bounds, best_utility, coarsest
from megacontext.simulator.oracle.utility import focus_utility
from megacontext.simulator.streams import Truth, truth
from megacontext.simulator.streams.base import Stream
from megacontext.simulator.world import World


def tilings(level: int, index: int, size: int) -> list[Frontier]:
    """Every frontier under one node."""
    if level == 1:
        return [((1, index),), ((0, index),)]
    below = [tilings(level - 1, index * size + k, size) for k in range(size)]
    return [((level, index),), *(sum(parts, ()) for parts in itertools.product(*below))]


def brute_force(n_tokens: int, wanted: Truth, bounds: Bounds) -> float:
    size, n_blocks = bounds.block_size, n_tokens // bounds.block_size
    room = bounds.w_max - size - n_tokens % size
    under = [tilings(level, index, size) for level, index in coarsest(n_blocks, bounds)]
    best = -1.0
    for parts in itertools.product(*under):
        frontier = sum(parts, ())
        raw = {index for level, index in frontier if level == 0}
        kept = set(range(max(0, n_blocks - bounds.protected_blocks), n_blocks))
        cost = sum(size if level == 0 else 1 for level, _ in frontier)
        if cost <= room and kept <= raw:
            best = max(best, utility_of(frontier, wanted, size))
    return best


@pytest.mark.parametrize("seed", range(25))
def test_the_knapsack_equals_brute_force(seed: int) -> None:
    rng = generator(seed, "test.oracle")
    bounds = Bounds(2, int(rng.integers(1, 4)), int(rng.integers(16, 24)), int(rng.integers(0, 2)))
    n_tokens = int(rng.integers(2, 15))
    blocks = rng.integers(0, 8, 4)
    wanted = truth(blocks, rng.uniform(0.1, 1, 4), n_tokens // 2)
    assert best_utility(n_tokens, wanted, bounds) == pytest.approx(
        brute_force(n_tokens, wanted, bounds)
    )


class Scripted(Stream):
    """Wants what a list says, one entry a refocus."""

    name = "uniform"
    script: tuple[Truth, ...] = ()
    asked = 0

    def targets(self, n_blocks: int) -> Truth:
        self.asked += 1
        return self.script[(self.asked - 1) % len(self.script)]


@pytest.mark.parametrize("allocator", POLICIES)
@pytest.mark.parametrize("seed", range(4))
def test_no_policy_beats_the_exact_search_and_that_not_the_free_optimum(
    allocator: str, seed: int
) -> None:
    rng = generator(seed, "test.exact")
    times = 4
    truths = tuple(truth(rng.integers(0, 8, 2), [1.0, 0.5], 8) for _ in range(times))
    config = WorldConfig(
        stream="uniform",
        lens="oracle",
        allocator=allocator,
        block_size=2,
        max_levels=3,
        w_max=12,
        n_diff=2,
        rounds=1,
        cooldown_steps=2,
    )
    world = World(config)
    for _ in range(8):  # the history first; the exact search starts from what that led to
        world.do(["append", 2])
        world.do(["refocus"])
    for _ in range(4):
        world.do(["refocus"])  # cooldowns end
    start = tuple(zip(world.context.levels.tolist(), world.context.index.tolist(), strict=True))
    script = Scripted(world.stream.spec)
    script.script = truths
    world.stream = script
    reached: list[float] = []
    world.watch = lambda w, result, now: reached.append(
        focus_utility(w.context.levels, w.context.starts, now, 2)
    )
    for _ in range(times):
        world.do(["refocus"])
    bounds = Bounds(2, 3, 12, 1)
    exact = exact_utility(start, truths, Tiny(8, bounds, 2, 2))
    free = sum(best_utility(16, wanted, bounds) for wanted in truths)
    assert sum(reached) <= exact + 1e-9
    assert exact <= free + 1e-9


def test_utility_counts_raw_blocks_and_fades_by_level() -> None:
    levels, starts = np.array([2, 1, 0], np.int8), np.array([0, 16, 20], np.int64)
    wanted = truth([0, 4, 5], [1.0, 1.0, 0.5], 6)
    assert focus_utility(levels, starts, wanted, 4) == pytest.approx(1 / 16 + 1 / 4 + 0.5)


SMALL = WorldConfig(block_size=8, max_levels=3, w_max=96, features={"resume": 0})


def test_the_regret_interval_holds_and_controls_are_worse() -> None:
    good = evaluate(SMALL, 80)
    assert 0 <= good.regret_low <= good.regret_high <= 1
    static = measure(WorldConfig(**{**SMALL.to_json(), "lens": "static", "faults": ()}), 80)
    assert static.utility < good.metrics.utility


def test_the_clairvoyant_is_feasible_and_below_the_optimum() -> None:
    lower = clairvoyant_utility(SMALL, 80)
    bound = measure(SMALL, 80).bound
    assert 0 < lower <= bound + 1e-9
    assert measure(SMALL, 80, Clairvoyant(SMALL.seed)).utility <= lower + 1e-9


def test_the_meter_sees_thrash_and_time_to_focus() -> None:
    meter = Meter()
    world = World(SMALL, watch=meter)
    for _ in range(60):
        world.do(["append", 8])
        world.do(["refocus"])
    found = meter.result()
    assert found.refocuses == 60
    assert 0 < found.reached <= 1
    assert found.time_to_focus >= 0
    assert 0 < found.utilization <= 1
