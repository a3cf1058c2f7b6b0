"""LensNet learns on recorded states: they are legal frontiers, and training takes them."""

from __future__ import annotations

import json

import numpy as np

from megacontext.core.config.parser import build
from megacontext.core.data.recorded_states import (
    RecordedState,
    RecordedStates,
    StateLayout,
    write_states,
)
from megacontext.core.data.shards import open_shards
from megacontext.core.gistnet.gister import save_gistnet
from megacontext.core.gistnet.keys import KeyConfig
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.model.base import BaseModel
from megacontext.core.rng import generator
from megacontext.core.training.lensnet.config import LensNetTraining
from megacontext.core.training.lensnet.dataset import LensDataset, StateMix
from megacontext.core.training.lensnet.rollout import PLAIN, rollout
from megacontext.core.training.lensnet.task import train_lensnet

SIZE, BLOCKS, HORIZON = 32, 40, 32
KEYS = KeyConfig(width=16, layers=1, heads=2, ffn=24, context_dim=16, lexical_dim=16)
LEVELS = np.array([2] * 32 + [1, 1, 0, 1, 1, 1, 0, 0])


def dataset(states, share):
    layout = StateLayout("any", SIZE, BLOCKS, HORIZON)
    mix = StateMix(near_blocks=BLOCKS, horizon=HORIZON, candidates=2, recorded=share)
    return LensDataset(
        mix, None, None, block_size=SIZE, query_tokens=8, seed=0, phase=0, rank=0,
        accumulation=1, recorded=RecordedStates(layout, states),
    )  # fmt: skip


def test_a_recorded_state_keeps_its_tokens_and_frontier_and_the_allocator_takes_it():
    tokens = np.arange(BLOCKS * SIZE + HORIZON)
    rows = dataset([RecordedState("a", tokens, LEVELS)], 1.0)
    near = rows.near(generator(0, "test"), (0, 0, 0))
    np.testing.assert_array_equal(near["tokens"], tokens)
    assert near["levels"].tolist() == [2, 1, 1, 0, 1, 1, 1, 0, 0]
    assert near["index"].tolist() == [0, *range(32, 40)]
    assert int(near["w_max"]) == 8 * SIZE  # it costs 102, the least legal budget is higher

    def indifferent(levels, index):
        return np.zeros(levels.shape, np.float32)

    budget = [int(near["w_max"])]
    moved, _ = rollout(indifferent, [near["levels"]], [BLOCKS * SIZE], budget, SIZE, 2, PLAIN)
    assert (moved >= 0).sum() >= len(near["levels"]) - 1


def test_a_state_of_a_log_gets_a_drawn_frontier():
    tokens = np.arange(BLOCKS * SIZE + HORIZON)
    rows = dataset([RecordedState("a", tokens, np.empty(0, np.int64))], 1.0)
    near = rows.near(generator(0, "test"), (0, 0, 0))
    np.testing.assert_array_equal(near["tokens"], tokens)
    width = SIZE ** np.maximum(near["levels"], 1)
    assert width.sum() == BLOCKS * SIZE


def test_train_lensnet_reads_recorded_states(shards, tiny_base, tmp_path):
    table = BaseModel.load(str(tiny_base), device="cpu", dtype="float32").embedding_matrix
    gistnet = GistNet(GistNetConfig(32, 32, 8, 1, 2, 1, 48, gist_rms=0.02, keys=KEYS))
    gistnet.init_weights(0)
    save_gistnet(gistnet, tmp_path / "gistnet", table)
    stream = next(iter(open_shards(shards).streams.values()))[0]
    states = [
        RecordedState(f"{i}", stream[i * 64 : i * 64 + BLOCKS * SIZE + HORIZON], LEVELS)
        for i in range(4)
    ]
    layout = StateLayout(open_shards(shards).layout.tokenizer, SIZE, BLOCKS, HORIZON)
    write_states(tmp_path, states, layout)

    phase = {
        "share": 1.0,
        "states": {
            "far_share": 0.0, "near_rows": 2, "near_blocks": BLOCKS, "horizon": HORIZON,
            "candidates": 2, "rounds": 1, "recorded": 1.0,
        },
    }  # fmt: skip
    judged = {"far": 1, "far_blocks": 48, "short_blocks": 48, "near": 1, "plain": 0}
    config = {
        "base": str(tiny_base),
        "gistnet": str(tmp_path / "gistnet"),
        "shards": str(shards),
        "heldout": str(shards),
        "recorded": str(tmp_path),
        "net": {"width": 16, "heads": 2},
        "loop": {"budget": {"steps": 2}, "log_every": 1},
        "phases": [phase],
        "evaluation": judged | {"states": {"near_blocks": 32, "candidates": 2}},
    }
    train_lensnet(build(LensNetTraining, config), tmp_path / "out", device="cpu")
    assert "lens_missed" in json.loads((tmp_path / "out/figures.json").read_text())
