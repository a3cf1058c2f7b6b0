"""Policies against the bounds: one run for each stream x lens x allocator, and its regret."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from megacontext.simulator.config import WorldConfig
from megacontext.simulator.lenses import CONTROLS, SimLens
from megacontext.simulator.metrics import FocusMetrics, Meter
from megacontext.simulator.oracle.clairvoyant import Clairvoyant
from megacontext.simulator.world import World

__all__ = ["Scored", "clairvoyant_utility", "evaluate", "evaluate_all", "measure"]

_CLAIRVOYANTS = (("greedy", 0), ("greedy", 6), ("optimal", 0), ("optimal", 6), ("optimal", 16))
"""(allocator, horizon) of the feasible policies whose best is the lower bound."""


@dataclass(frozen=True)
class Scored:
    """One policy in one world.

    Args:
        regret_low, regret_high: the interval that holds the true relative regret: against the
            best feasible clairvoyant, and against the free-switching optimum.
    """

    stream: str
    lens: str
    allocator: str
    metrics: FocusMetrics
    clairvoyant: float
    regret_low: float
    regret_high: float

    def to_json(self) -> dict[str, object]:
        plain: dict[str, object] = asdict(self)
        del plain["metrics"]
        return asdict(self.metrics) | plain


def measure(config: WorldConfig, blocks: int, lens: SimLens | None = None) -> FocusMetrics:
    """Append block by block, one refocus each, every invariant checked."""
    meter = Meter()
    world = World(config, watch=meter)
    if lens is not None:
        if isinstance(lens, Clairvoyant):
            lens.stream = world.stream
        world.lens = lens
    for _ in range(blocks):
        world.do(["append", config.block_size])
        world.do(["refocus"])
    world.finish()
    return meter.result()


@lru_cache(maxsize=256)
def _clairvoyant(key: str, blocks: int) -> float:
    config = WorldConfig.from_json(json.loads(key))
    best = 0.0
    for allocator, horizon in _CLAIRVOYANTS:
        lens = Clairvoyant(config.seed, horizon=horizon)
        best = max(best, measure(replace(config, allocator=allocator), blocks, lens).utility)
    return best


def clairvoyant_utility(config: WorldConfig, blocks: int) -> float:
    """The best mean utility of the clairvoyant policies on this stream: a feasible lower bound.

    The anti-policy stream has no future to know; there it is the best of the same policies on
    whatever that stream wants of them.
    """
    plain = replace(config, lens="oracle", allocator="greedy").to_json()
    return _clairvoyant(json.dumps(plain, sort_keys=True), blocks)


def evaluate(config: WorldConfig, blocks: int) -> Scored:
    """One policy, its metrics and its regret interval."""
    metrics = measure(config, blocks)
    lower = clairvoyant_utility(config, blocks)
    scale = metrics.bound or 1.0
    return Scored(
        stream=config.stream,
        lens=config.lens,
        allocator=config.allocator,
        metrics=metrics,
        clairvoyant=lower,
        regret_low=max(0.0, lower - metrics.utility) / scale,
        regret_high=(metrics.bound - metrics.utility) / scale,
    )


def evaluate_all(
    base: WorldConfig,
    blocks: int,
    streams: Sequence[str],
    lenses: Sequence[str],
    allocators: Sequence[str],
) -> Iterator[Scored]:
    """Every combination; the controls once per stream, under the first allocator."""
    for stream in streams:
        for allocator in allocators:
            for lens in lenses:
                yield evaluate(replace(base, stream=stream, lens=lens, allocator=allocator), blocks)
        for lens in CONTROLS:
            if lens not in lenses:
                config = replace(base, stream=stream, lens=lens, allocator=allocators[0])
                yield evaluate(config, blocks)
