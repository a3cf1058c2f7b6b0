"""Every stream through the same matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megacontext.simulator.config import WorldConfig
from megacontext.simulator.streams import STREAMS, Stream, StreamSpec, make_stream, truth
from megacontext.simulator.world import World
from megacontext.traces.errors import ConfigError

DRAWN = [name for name in STREAMS if name != "recorded"]


def make(name: str, seed: int = 3) -> Stream:
    return make_stream(name, StreamSpec(seed, 8, 128))


@pytest.mark.parametrize("name", DRAWN)
def test_tokens_do_not_depend_on_how_they_are_asked_for(name: str) -> None:
    whole = make(name).tokens(0, 10_000)
    stream = make(name)
    pieces = [stream.tokens(at, min(at + 1237, 10_000)) for at in range(0, 10_000, 1237)]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert whole.dtype == np.uint32
    assert int(whole.max()) < 4096


@pytest.mark.parametrize("name", DRAWN)
def test_truth_is_sorted_weighted_and_complete(name: str) -> None:
    stream = make(name)
    stream.observe([(1, 4), (2, 1)])
    for n_blocks in range(0, 400, 7):
        wanted = stream.targets(n_blocks)
        assert (np.diff(wanted.blocks) > 0).all()
        assert ((wanted.blocks >= 0) & (wanted.blocks < n_blocks)).all()
        assert ((wanted.weights > 0) & (wanted.weights <= 1)).all()
        assert wanted.blocks.shape == wanted.weights.shape


@pytest.mark.parametrize("name", DRAWN)
def test_something_is_wanted_at_some_time_and_seeds_differ(name: str) -> None:
    stream, other = make(name), make(name, seed=4)
    for each in (stream, other):
        each.observe([(1, 4)])
    assert any(stream.targets(n).blocks.size for n in range(200))
    assert not np.array_equal(stream.tokens(0, 64), other.tokens(0, 64))


def test_the_loop_is_one_block_longer_than_the_budget() -> None:
    stream = make("loop")
    wanted = {int(stream.targets(n).blocks[0]) for n in range(100, 400)}
    assert wanted == set(range(128 // 8 + 1))


def test_anti_policy_wants_what_was_collapsed_last() -> None:
    stream = make("anti_policy")
    stream.observe([(1, 5), (2, 3)])
    assert stream.targets(100).blocks.tolist() == [5, 24]


def test_doubled_blocks_keep_their_largest_weight() -> None:
    found = truth([4, 2, 4, 9], [0.25, 0.5, 0.75, 1.0], 9)
    assert found.blocks.tolist() == [2, 4]
    assert found.weights.tolist() == [0.5, 0.75]


def test_a_recording_is_a_stream(tmp_path: Path) -> None:
    config = WorldConfig(stream="needle", lens="oracle")
    world = World(config, out=tmp_path / "t.arrow")
    for _ in range(60):
        world.do(["append", 8])
        world.do(["refocus"])
    world.finish()
    spec = StreamSpec(9, 8, 128, recording=str(tmp_path / "t.arrow"))
    stream = make_stream("recorded", spec)
    assert np.array_equal(stream.tokens(0, 480), world.stream.tokens(0, 480))
    asked = next(n for n in range(1, 60) if world.stream.targets(n).blocks.size)
    later = asked + 10  # cooldowns are over: the needle is raw and was scored as such
    assert world.stream.targets(later).blocks[0] in stream.targets(later).blocks
    assert stream.tokens(400, 900).size == 500


def test_a_recorded_stream_without_a_trace_is_refused() -> None:
    with pytest.raises(ConfigError, match="--recording"):
        make("recorded").tokens(0, 8)


def test_an_unknown_stream_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'needle'"):
        make("nedle")
