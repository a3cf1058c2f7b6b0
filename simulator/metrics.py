"""How good a focus was, given the ground truth: collected while a world runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from megacontext.core.focus import RoundResult
from megacontext.simulator.oracle.optimum import Bounds, best_utility
from megacontext.simulator.oracle.utility import focus_utility, levels_of
from megacontext.simulator.streams import Truth
from megacontext.simulator.world import World

__all__ = ["FocusMetrics", "Meter"]

_THRASH_REFOCUSES = 8


@dataclass(frozen=True)
class FocusMetrics:
    """Means over the refocuses of one run; shares are in [0, 1].

    Args:
        utility: ground-truth utility a refocus, over refocuses at which something was wanted.
        bound: the free-switching optimum at the same moments.
        hit_rate: weight of wanted blocks that were raw, of all wanted weight.
        time_to_focus: median refocuses from "wanted" to "raw", counting only those that came.
        reached: share of wanted blocks that became raw while they were wanted.
        swap_rate: voluntary actions per raw block of the frontier, a refocus.
        thrash: share of voluntary actions that undid one of the last refocuses.
        utilization: entries used over w_max.
    """

    utility: float
    bound: float
    hit_rate: float
    time_to_focus: float
    reached: float
    swap_rate: float
    thrash: float
    utilization: float
    refocuses: int


@dataclass
class Meter:
    """A world's watcher; call it after every round, then :meth:`result`."""

    with_bound: bool = True
    _utility: list[float] = field(default_factory=list)
    _bound: list[float] = field(default_factory=list)
    _hit: list[tuple[float, float]] = field(default_factory=list)
    _waits: list[int] = field(default_factory=list)
    _asked: int = 0
    _swap: list[float] = field(default_factory=list)
    _used: list[float] = field(default_factory=list)
    _voluntary: int = 0
    _undone: int = 0
    _chosen: int = 0
    _waiting: dict[int, int] = field(default_factory=dict)
    _targets: set[int] = field(default_factory=set)
    _last: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def __call__(self, world: World, result: RoundResult, truth: Truth) -> None:
        """One round was checked."""
        for kind, level, index, _, _, forced, _ in result.actions.tolist():
            step, other = self._last.get((level, index), (-(1 << 40), kind))
            if not forced:
                self._chosen += 1
                undoes = other != kind and result.step - step <= _THRASH_REFOCUSES
                self._undone += undoes
                self._voluntary += 1
            self._last[level, index] = (result.step, kind)
        if result.last:
            self._refocused(world, result, truth)

    def _refocused(self, world: World, result: RoundResult, truth: Truth) -> None:
        context, size = world.context, world.config.block_size
        raw = int(np.count_nonzero(context.levels == 0))
        self._swap.append(self._voluntary / max(1, raw))
        self._voluntary = 0
        self._used.append(result.budget_used / result.w_max)
        shown = levels_of(context.levels, context.starts, truth, size)
        self._times(result.step, truth, shown)
        if truth.blocks.size == 0:
            return
        weight = float(truth.weights.sum())
        self._hit.append((float(truth.weights[shown == 0].sum()), weight))
        self._utility.append(focus_utility(context.levels, context.starts, truth, size))
        if self.with_bound:
            config = world.config
            bounds = Bounds(size, config.max_levels, result.w_max, config.protected_blocks)
            self._bound.append(best_utility(context.n_tokens, truth, bounds))

    def _times(self, step: int, truth: Truth, shown: np.ndarray) -> None:
        now = dict(zip(truth.blocks.tolist(), shown.tolist(), strict=True))
        for block in [block for block in self._waiting if block not in now]:
            del self._waiting[block]  # nobody asks any more: never reached
        for block, level in now.items():
            if block not in self._targets:
                self._waiting[block] = step
                self._asked += 1
            if level == 0 and block in self._waiting:
                self._waits.append(step - self._waiting.pop(block))
        self._targets = set(now)

    def result(self) -> FocusMetrics:
        """What was collected so far."""
        hit = sum(part for part, _ in self._hit)
        total = sum(whole for _, whole in self._hit)
        return FocusMetrics(
            utility=_mean(self._utility),
            bound=_mean(self._bound),
            hit_rate=hit / total if total else 0.0,
            time_to_focus=float(np.median(self._waits)) if self._waits else float("nan"),
            reached=len(self._waits) / self._asked if self._asked else 0.0,
            swap_rate=_mean(self._swap),
            thrash=self._undone / self._chosen if self._chosen else 0.0,
            utilization=_mean(self._used),
            refocuses=len(self._swap),
        )


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0
