"""Sessions that die and go on: the product's loop, resume, echoes, controls; a simulated disk."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from megacontext.core.rng import generator
from megacontext.core.verify import verify
from megacontext.simulator.failures import muted_warnings
from megacontext.simulator.faults import Fate
from megacontext.simulator.sessions import SessionLife, SessionWorld, check_same_rows
from megacontext.traces.schema import Trigger


def broken(seed: int, chance: float, calls: int) -> SessionWorld:
    """A session that dies up to four times, in every second case by a power cut, and then ends."""
    world = SessionWorld(seed, chance)
    rng = generator(seed, "test.lives", int(chance > 0))
    for _ in range(4):
        keep = float(rng.choice([0.0, 0.5, 0.9]))
        fate = None if rng.random() < 0.5 else Fate(int(rng.integers(1 << 16)), keep)
        if world.live(SessionLife(1 + int(rng.integers(calls // 2)), fate)):
            return world
    while not world.live(SessionLife()):
        pass
    return world


def lives(seeds: Iterable[int], tmp_path: Path) -> Counter[str]:
    """Unbroken, broken and steered sessions of each seed, every one checked."""
    happened: Counter[str] = Counter()
    with muted_warnings():
        for seed in seeds:
            whole = SessionWorld(seed)
            assert whole.live(SessionLife())
            rows = whole.rows()
            whole.check_tree(rows)
            happened["echo"] += any(row.trigger == Trigger.ECHO for row in rows)

            cut = broken(seed, 0.0, whole.disk.calls)
            check_same_rows(cut.rows(), rows)
            steered = broken(seed, 0.05, whole.disk.calls)
            for world in (cut, steered):
                world.check_tree(world.rows())
                happened.update(world.sometimes)

            # Every decision again, by the recorded limits.
            trace = tmp_path / "run.arrow"
            trace.write_bytes(steered.trace_bytes())
            report = verify(trace)
            assert report.ok, report.problems
            assert report.rerun == report.rows
    return happened


def test_a_session_that_dies_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    # Some of these break off between two rounds of one refocus.
    happened = lives([*range(8), 23, 36], tmp_path)
    for what in ("broken_off", "resumed", "echo"):
        assert happened[what] > 1, what


@pytest.mark.slow
def test_300_sessions_that_die_go_on_as_if_they_had_not(tmp_path: Path) -> None:
    happened = lives(range(100, 400), tmp_path)
    for what in ("text", "ask", "w_max", "n_diff", "tau", "stop", "marker", "trace_lost"):
        assert happened[what] > 2, what


def test_the_simulated_model_is_a_function_of_the_history() -> None:
    with muted_warnings():
        first, second = SessionWorld(3), SessionWorld(3)
        for world in (first, second):
            world.live(SessionLife())
    rows = zip(first.rows(), second.rows(), strict=True)
    assert all(np.array_equal(a.new_tokens, b.new_tokens) for a, b in rows)
