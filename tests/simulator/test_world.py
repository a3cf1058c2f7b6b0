"""Worlds from fixed seeds, end to end: the commit tier of the fuzz loop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megacontext.simulator.config import POLICIES, WorldConfig, draw_config
from megacontext.simulator.crashes import crash_run
from megacontext.simulator.drive import draw_operations
from megacontext.simulator.failures import attempt, muted_warnings
from megacontext.simulator.fuzz import fuzz
from megacontext.simulator.lenses import LENSES
from megacontext.simulator.streams import STREAMS
from megacontext.simulator.world import World
from megacontext.traces.errors import ConfigError
from megacontext.traces.reader import TraceReader

DRAWN = [name for name in STREAMS if name != "recorded"]


def run(config: WorldConfig, blocks: int = 40) -> World:
    world = World(config)
    for _ in range(blocks):
        world.do(["append", config.block_size])
        world.do(["refocus"])
    world.finish()
    return world


@pytest.mark.parametrize("stream", DRAWN)
@pytest.mark.parametrize("lens", LENSES)
def test_every_stream_and_lens_keeps_every_invariant(stream: str, lens: str) -> None:
    allocator = POLICIES[(len(stream) + len(lens)) % len(POLICIES)]
    world = run(
        WorldConfig(seed=5, stream=stream, lens=lens, allocator=allocator, w_max=80), blocks=24
    )
    assert world.steps == 24


def test_drawn_worlds_hold() -> None:
    report = fuzz(7, worlds=60)
    assert [f"{f.kind}: {f.message}" for f in report.failures] == []


@pytest.mark.slow
def test_a_long_fuzz_run_holds_and_everything_happens_in_it() -> None:
    report = fuzz(1, worlds=1500)
    assert [f"{f.kind}: {f.message}" for f in report.failures] == []
    assert report.never == []


@pytest.mark.parametrize("lives", [800, pytest.param(3100, marks=pytest.mark.slow)])
def test_no_crash_loses_a_committed_token(lives: int) -> None:
    report = crash_run(lives)
    cuts, strikes = sum(report.runs.values()), sum(report.struck.values())
    assert cuts + strikes >= 1.6 * lives, "every life has its fault and ends in a power cut"
    assert [f"{f.kind}: {f.message}" for f in report.failures] == []
    for fault, strikes in report.struck.items():
        assert strikes > lives // 400, fault


@pytest.mark.slow
def test_20_000_crashes_lose_no_committed_token() -> None:
    report = crash_run(20_000, seed=1)
    assert [f"{f.kind}: {f.message}" for f in report.failures] == []


_HASH = """
from megacontext.simulator.config import draw_config
from megacontext.simulator.drive import draw_operations
from megacontext.simulator.world import World
for seed in (3, 11):
    world = World(draw_config(seed))
    for operation in draw_operations(world.config, 120):
        world.do(operation)
    print(world.finish())
"""


def _in_process(hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _HASH],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_two_processes_with_different_hash_seeds_agree() -> None:
    first = _in_process("1")
    assert len(first.split()) == 2
    assert _in_process("2") == first


def test_another_seed_gives_another_hash() -> None:
    assert run(WorldConfig(seed=1)).hash() != run(WorldConfig(seed=2)).hash()


def test_neither_torch_nor_the_inspector_is_imported() -> None:
    code = (
        "import sys, megacontext.simulator.cli, megacontext.simulator.crashes;"
        "print([m for m in ('torch', 'transformers', 'textual', 'megacontext.tui')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_equal_runs_record_equal_files(tmp_path: Path) -> None:
    for name in ("a.arrow", "b.arrow"):
        world = World(WorldConfig(seed=9), out=tmp_path / name)
        for operation in draw_operations(WorldConfig(features={"append": 1, "refocus": 1}), 60):
            world.do(operation)
        world.finish()
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()
    with TraceReader.open(tmp_path / "a.arrow") as reader:
        assert reader.finished
        assert reader.check() == []
        assert reader.num_rows == world.rounds


def test_the_truth_is_in_the_trace_as_markers(tmp_path: Path) -> None:
    world = World(WorldConfig(stream="needle"), out=tmp_path / "t.arrow")
    for _ in range(60):
        world.do(["append", 8])
        world.do(["refocus"])
    world.finish()
    with TraceReader.open(tmp_path / "t.arrow") as reader:
        markers = [row.marker for row in reader.rows() if row.marker]
    assert any("needle planted" in marker for marker in markers)
    assert any("question" in marker for marker in markers)


def test_a_drawn_operation_list_is_repeatable() -> None:
    config = draw_config(12)
    assert list(draw_operations(config, 50)) == list(draw_operations(config, 50))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"w_max": 10}, "w_max is 10"),
        ({"block_size": 12}, "power of two"),
        ({"seed": -1}, "seed is -1"),
        ({"storage": "tape"}, "use ram or disk"),
        ({"allocator": "greedyy"}, "did you mean 'greedy'"),
        ({"rounds": 0}, "focus.rounds: 0 is outside 1..255"),
        ({"cooldown_steps": 65}, "focus.cooldown_steps: 65 is outside 0..64"),
        ({"tau_expand": -0.1}, "focus.tau_expand: -0.1 is outside 0..1"),
        ({"faults": ("fire",)}, "fault 'fire'"),
    ],
)
def test_an_impossible_world_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WorldConfig(**change)  # type: ignore[arg-type]


DISK = WorldConfig(
    storage="disk", stream="uniform", lens="static", block_size=4, max_levels=2, w_max=64
)
LIFE = [["append", 9], ["commit"], ["append", 6], ["regist", 1], ["append", 5], ["reopen"]]


@pytest.mark.parametrize("fault", ["eio", "enospc", "failed_fsync", "kill", "torn_tail"])
def test_a_fault_at_every_single_call_until_none_is_left(fault: str) -> None:
    struck = 0
    with muted_warnings():
        for nth in range(1, 1000):
            operations = [["fault", fault, nth, nth], *LIFE, ["crash", nth, 50]]
            world = World(DISK)
            for operation in operations:
                world.do(operation)
            world.finish()
            hit = world.sometimes["killed"] + world.sometimes["error_reported"]
            struck += bool(hit)
            if not hit:
                break
    assert struck > 20
    assert struck == nth - 1, "faults were skipped: the sweep did not end at the first clean run"


@pytest.mark.parametrize("salt", range(40))
def test_a_flipped_bit_is_noticed_or_harmless(salt: int) -> None:
    operations = [*LIFE, ["fault", "bit_flip", 1, salt * 997]]
    with muted_warnings():
        failure = attempt(DISK, operations)
    assert failure is None


def test_a_gist_failure_leaves_no_trace_of_its_append() -> None:
    for nth in range(1, 4):
        for salt in (0, 1):
            world = World(WorldConfig(block_size=4, max_levels=2, w_max=64))
            for operation in (["append", 3], ["fault", "gist_failure", nth, salt]):
                world.do(operation)
            for _ in range(12):
                world.do(["append", 4])
            world.finish()
            assert world.sometimes["gist_failure"] == 1
