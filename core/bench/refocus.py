"""What one refocus costs on the CPU: allocator, constraints and working context, scores given."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from megacontext.core.allocators import make_allocator
from megacontext.core.focus import ContextShape, Focus, Limits, WorkingContext, make_focus
from megacontext.core.focus.actions import F16
from megacontext.core.rng import generator
from megacontext.traces.schema import Trigger

__all__ = ["bench"]

BLOCK_SIZE = 32
MAX_LEVELS = 4
HISTORY = 1 << 20


def bench(
    entries: Sequence[int] = (1024, 8192),
    allocators: Sequence[str] = ("greedy", "stochastic_greedy", "slot", "optimal"),
    seed: int = 0,
    refocuses: int = 200,
    windows: Sequence[int] = (8192,),
) -> dict[str, Any]:
    """p50 and p99 in microseconds of one round and of one refocus (all of its rounds).

    ``*_us_*`` is wall-clock time, ``*_cpu_us_*`` the thread's CPU time: on a machine that does
    other work only the second is the cost of the code.

    Every refocus follows the append of one block, so each also pays for forced collapses and for
    carrying the constraint memory. ``random`` draws new scores in [-1, 1] every round: the worst
    case, where all limits bind in every round. ``drifting`` is the steady state of a session:
    scores that follow the node and change slowly.

    Args:
        entries: frontier nodes to start from.
        allocators: kinds to measure.
        refocuses: how many to time for each case.
        windows: budgets W_max in entries; each is a session over 1,048,576 tokens, started cold.
    """
    report: dict[str, Any] = {"block_size": BLOCK_SIZE, "refocuses": refocuses, "cases": []}
    for count in entries:
        for kind in allocators:
            for scores in ("random", "drifting"):
                case = {"nodes": count, "allocator": kind, "scores": scores}
                focus = _start(count, kind, seed)
                report["cases"].append(case | _measure(focus, scores, seed, refocuses))
    for w_max in windows:
        for kind in allocators:
            for scores in ("random", "drifting"):
                focus = _session(w_max, kind, seed)
                nodes = len(focus.working_context)
                case = {"w_max": w_max, "nodes": nodes, "allocator": kind, "scores": scores}
                report["cases"].append(case | _measure(focus, scores, seed, refocuses))
    return report


def _measure(focus: Focus, scores: str, seed: int, refocuses: int) -> dict[str, float]:
    rounds: list[tuple[int, int]] = []  # wall and CPU time in ns
    totals: list[tuple[int, int]] = []
    for step in range(refocuses):
        focus.append(BLOCK_SIZE)
        focus.begin(Trigger.BLOCK_CLOSED)
        first = len(rounds)

        # Only the round is timed, not the making of its scores.
        for given in _scores(focus, scores, seed, step):
            wall_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
            result = focus.round(given)
            cpu_ns = time.thread_time_ns() - cpu_ns
            rounds.append((time.perf_counter_ns() - wall_ns, cpu_ns))
            if result.last:
                break
        wall, cpu = zip(*rounds[first:], strict=True)
        totals.append((sum(wall), sum(cpu)))

    # Percentiles of rounds and of whole refocuses, by both clocks.
    report = {"rounds_per_refocus": len(rounds) / len(totals)}
    for name, times in (("round", rounds), ("refocus", totals)):
        for clock, column in zip(("", "_cpu"), zip(*times, strict=True), strict=True):
            for percent in (50, 99):
                value = float(np.percentile(column, percent)) / 1000
                report[f"{name}{clock}_us_p{percent}"] = value
    return report


def _start(count: int, kind: str, seed: int) -> Focus:
    """A full window of ``count`` nodes: a quarter LOD2, the rest LOD1 with a tenth of it raw."""
    levels = np.ones(count, np.int8)
    levels[: count // 4] = 2
    raw = count // 4 + generator(seed, "bench.raw").permutation(count - count // 4)[: count // 10]
    levels[raw] = 0
    levels[-1] = 0
    n_tokens = int((np.int64(BLOCK_SIZE) ** np.maximum(levels, 1).astype(np.int64)).sum())
    cost = int(np.where(levels == 0, BLOCK_SIZE, 1).sum())
    context = WorkingContext.from_levels(
        levels,
        n_tokens,
        block_size=BLOCK_SIZE,
        max_levels=MAX_LEVELS,
        w_max=cost + 2 * BLOCK_SIZE,
    )
    return Focus(context, make_allocator(kind), Limits(), seed)


def _session(w_max: int, kind: str, seed: int) -> Focus:
    """A session's window of ``w_max`` entries over a long history: newest blocks raw."""
    shape = ContextShape(BLOCK_SIZE, MAX_LEVELS, w_max, protected_blocks=2)
    return make_focus(shape, make_allocator(kind), Limits(), seed, n_tokens=HISTORY)


def _scores(focus: Focus, kind: str, seed: int, step: int) -> Iterator[F16]:
    """Scores for round after round of one refocus."""
    context = focus.working_context
    while True:
        if kind == "random":
            draw = generator(seed, "bench.scores", step)
            yield draw.uniform(-1, 1, len(context)).astype(np.float16)
        else:
            # A slow wave over the history, with recent text near its top.
            phase = context.starts / 4096 + step / 50
            near = np.exp(-(context.n_tokens - context.starts) / 4096)
            yield (0.35 * np.sin(phase) * np.cos(7 * phase) + near).astype(np.float16)
