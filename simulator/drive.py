"""The plain driver: operations drawn from a configuration's features, for volume."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from megacontext.core.rng import generator
from megacontext.simulator.config import WorldConfig
from megacontext.simulator.operations import Operation

__all__ = ["draw_operations"]

_CHUNK = 1024


class _Draws:
    """Uniform integers from blocks of draws, which are far cheaper than single ones."""

    def __init__(self, seed: int) -> None:
        self._seed, self._number = seed, 0
        self._left: list[int] = []

    def below(self, bound: int) -> int:
        if not self._left:
            rng = generator(self._seed, "operations", self._number)
            self._left = rng.integers(0, 1 << 40, _CHUNK).tolist()
            self._number += 1
        return self._left.pop() % bound


def draw_operations(config: WorldConfig, count: int) -> Iterator[Operation]:
    """``count`` operations. A refocus follows most appends, as a session does it."""
    draws = _Draws(config.seed)
    names = [name for name, weight in config.features.items() if weight]
    ends = np.cumsum([config.features[name] for name in names]).tolist()
    size = config.block_size
    for _ in range(count):
        at = draws.below(ends[-1])
        name = next(name for name, end in zip(names, ends, strict=True) if at < end)
        yield _make(name, config, draws, size)
        if name == "question" and config.features.get("resume") and draws.below(3) == 0:
            yield ["resume"]  # what a question changed is forgotten soon after it
        if name == "fault" and config.storage == "disk" and draws.below(2):
            yield ["append", 1 + draws.below(2 * size)]  # most faults wait for work on the disk
            yield ["regist", draws.below(1 << 8)] if draws.below(4) == 0 else ["commit"]


def _make(name: str, config: WorldConfig, draws: _Draws, size: int) -> Operation:
    if name == "append":
        kind = draws.below(8)
        if kind == 0:
            return ["append", 1 + draws.below(20 * size)]  # a bulk: old blocks enter as gists
        return ["append", size if kind < 5 else 1 + draws.below(2 * size)]

    if name == "question":
        return ["question", 1 + draws.below(16), 1 + draws.below(8)]
    if name == "budget":
        return ["budget", 500 + draws.below(700)]
    if name == "limits":
        longest = (6, 6, 6, 65)[draws.below(4)]
        return ["limits", 1 + draws.below((8, 8, 64)[draws.below(3)]), draws.below(longest)]

    if name == "crash":
        return ["crash", draws.below(1 << 16), (0, 10, 50, 90, 100)[draws.below(5)]]
    if name in ("settle", "regist", "marker"):
        return [name, draws.below(1 << 8)]

    if name == "fault":
        fault = config.faults[draws.below(len(config.faults))]
        nth = 1 + draws.below((4, 12, 40, 120)[draws.below(4)])
        return ["fault", fault, nth, draws.below(1 << 16)]
    return [name]
