"""Trainers of GistNet, its keys and LensNet: alignment, teachers, learning, resume."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from megacontext.core.config.parser import build
from megacontext.core.data.shards import open_shards
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.rng import generator
from megacontext.core.training.common.frozen_base import FrozenBase, kl_divergence
from megacontext.core.training.common.tilings import stack_tilings, tile
from megacontext.core.training.gistnet.evaluate import GistEvalConfig, GistEvaluator
from megacontext.core.training.gistnet.task import (
    GistNetTraining,
    GistTask,
    make_gistnet,
    train_gistnet,
)
from megacontext.core.training.gistnet.vector_upper_bound import one_vector_ceiling
from megacontext.core.training.index_keys.task import KeyTraining, train_keys
from megacontext.core.training.lensnet import teacher as lensnet_teacher
from megacontext.core.training.lensnet.task import LensNetTraining, train_lensnet
from megacontext.core.training.loop.distributed import join_world
from megacontext.core.training.loop.optimizers import OptimizerConfig
from megacontext.traces.errors import ConfigError, ModelError

K = 32
KEYS = {"width": 16, "layers": 1, "heads": 2, "ffn": 16, "context_dim": 8, "lexical_dim": 8}
SETTINGS: dict[str, Any] = {
    "loop": {
        "seed": 1,
        "budget": {"steps": 4},
        "schedule": {"warmup_steps": 1},
        "checkpoint_steps": 2,
        "log_every": 1,
    }
}


def gist_settings(tiny_base: Path, shards: Path, **change: Any) -> GistNetTraining:
    tilings = {"length": 256, "rows": 2, "scored": 32, "gists": [1, 3], "tail": 2}
    fields = {
        **SETTINGS,
        "base": str(tiny_base),
        "shards": str(shards),
        "heldout": str(shards),
        "net": {"layers": 1, "left_context": 8, "keys": KEYS},
        "phases": [
            {
                "share": 0.5,
                "train": "adapter",
                "objectives": {"reconstruction": 1.0, "pooling_mse": 0.1},
                "tilings": tilings,
            },
            {
                "share": 0.5,
                "objectives": {"delta_nll": 1.0, "reconstruction": 0.1, "children": 0.1},
                "tilings": {**tilings, "length": 1280, "groups": 1, "group_chance": 1.0, "far": 40},
            },
        ],
        "evaluation": {"rows": 1, "scored": 16},
    }
    return build(GistNetTraining, {**fields, **change})


def key_settings(tiny_base: Path, gistnet: Path, shards: Path) -> KeyTraining:
    fields = {
        **SETTINGS,
        "base": str(tiny_base),
        "gistnet": str(gistnet),
        "shards": str(shards),
        "heldout": str(shards),
        "phases": [{"share": 1.0, "mix": {"samples": 4, "blocks": 16, "asks": 2, "facts_max": 3}}],
        "evaluation": {"cases": 2, "pools": [64], "length": 512, "facts_max": 2},
    }
    return build(KeyTraining, fields)


def lens_settings(tiny_base: Path, gistnet: Path, shards: Path) -> LensNetTraining:
    states = {
        "far_rows": 2,
        "far_blocks": 64,
        "near_rows": 1,
        "near_blocks": 32,
        "candidates": 2,
        "facts_max": 3,
        "w_max": [256],
        "rounds": 2,
        "cold": 0.5,
    }
    fields = {
        **SETTINGS,
        "base": str(tiny_base),
        "gistnet": str(gistnet),
        "shards": str(shards),
        "heldout": str(shards),
        "net": {"width": 16, "heads": 2},
        "phases": [{"share": 1.0, "states": states}],
        "evaluation": {
            "far": 1,
            "far_blocks": 64,
            "w_max": 256,
            "near": 1,
            "plain": 2,
            "plain_blocks": 11,
            "states": states,
        },
    }
    return build(LensNetTraining, fields)


def newest_weights(run: Path) -> dict[str, torch.Tensor]:
    folder = json.loads((run / "latest.json").read_text())["folder"]
    return load_file(run / folder / "model.safetensors")


def interrupted(run: Path, at: str, other: Path) -> Path:
    """``other`` as a run that was killed right after the checkpoint ``at``."""
    other.mkdir()
    shutil.copytree(run / at, other / at)
    (other / "latest.json").write_text(json.dumps({"folder": at}))
    return other


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_raw_window_costs_nothing_and_controls_stand_beside_the_gists(
    base: FrozenBase, tiny_base: Path, shards: Path
) -> None:
    streams = TokenStreams(open_shards(shards))
    evaluator = GistEvaluator(GistEvalConfig(rows=1, scored=16), base, streams, K)
    settings = gist_settings(tiny_base, shards)
    net = make_gistnet(settings.net, shards, 1, base)
    window = streams.window(generator(0, "test"), "code", 8 * K).astype(np.int64)
    tokens = torch.from_numpy(window)[None]
    none = np.empty(0, np.int64)
    untouched = evaluator.costs(net, tokens, stack_tilings([tile(8 * K, K, none, none)]))
    assert all(float(cost.abs().max()) < 1e-4 for cost in untouched.values())
    coarse = evaluator.costs(net, tokens, stack_tilings([tile(8 * K, K, np.array([2]), none)]))
    assert float((coarse["gist"] - coarse["delete"]).abs().max()) > 1e-5
    assert set(evaluator.evaluate(net)) == set(evaluator.names)


def test_divergence_is_zero_for_equal_and_positive_for_other_logits() -> None:
    a = torch.tensor([[1.0, 2.0, 3.0]])
    assert float(kl_divergence(a, a + 5)) == pytest.approx(0, abs=1e-6)
    expected = (a.softmax(-1) * (a.log_softmax(-1) - (-a).log_softmax(-1))).sum()
    assert float(kl_divergence(a, -a)) == pytest.approx(float(expected), rel=1e-5)


def test_steps_on_one_batch_reduce_every_objective(
    base: FrozenBase, tiny_base: Path, shards: Path
) -> None:
    config = gist_settings(tiny_base, shards)
    net = make_gistnet(config.net, shards, 1, base)
    task = GistTask(config, base, net, join_world("cpu"))
    for phase in (0, 1):
        task.on_phase_start(phase)
        batch = {name: value[0] for name, value in task.dataset(phase)[0].items()}
        trained = [p for p in net.parameters() if p.requires_grad]
        adam = torch.optim.Adam(trained, lr=3e-3)
        losses = []
        for _ in range(5):
            adam.zero_grad()
            loss, _ = task.loss(batch)
            loss.backward()
            adam.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0] - 1e-4, phase
    encoder_moved = any(p.grad is not None for p in net.encoder.parameters())
    assert encoder_moved
    assert all(p.grad is None for p in net.keys.parameters())


def test_interrupted_runs_end_with_the_same_weights(
    tiny_base: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gist = gist_settings(tiny_base, shards)
    built = tmp_path / "export"
    train_gistnet(gist, tmp_path / "g", device="cpu", export=built)
    again = interrupted(tmp_path / "g", "step-00000002", tmp_path / "g2")
    train_gistnet(gist, again, device="cpu", resume=True)
    assert same(newest_weights(tmp_path / "g"), newest_weights(again))

    keys = key_settings(tiny_base, built, shards)
    complete = tmp_path / "complete"
    train_keys(keys, tmp_path / "k", device="cpu", export=complete)
    again = interrupted(tmp_path / "k", "step-00000002", tmp_path / "k2")
    train_keys(keys, again, device="cpu", resume=True)
    assert same(newest_weights(tmp_path / "k"), newest_weights(again))

    lens = lens_settings(tiny_base, complete, shards)
    figures = train_lensnet(lens, tmp_path / "l", device="cpu", export=tmp_path / "lens")
    again = interrupted(tmp_path / "l", "step-00000002", tmp_path / "l2")
    train_lensnet(lens, again, device="cpu", resume=True)
    assert same(newest_weights(tmp_path / "l"), newest_weights(again))
    assert (tmp_path / "lens" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "l" / "figures.json").read_text()) == figures
    assert 0 <= figures["swap_rate"] <= 1
    assert 0 < figures["residency"] <= 1
    evaluation = replace(lens.evaluation, plain_blocks=8)
    with pytest.raises(ConfigError, match=r"evaluation\.plain_blocks: 8 .* more than 8"):
        train_lensnet(replace(lens, evaluation=evaluation), tmp_path / "l4", device="cpu")

    monkeypatch.setattr(lensnet_teacher, "_MIN_SAVED_NATS", 0.0)  # an untrained base loses little
    copying = replace(lens, teacher="copies")
    ranking = replace(copying, phases=(replace(lens.phases[0], near_ranking=1.0),))
    for name, config in (("l5", copying), ("l6", ranking)):
        train_lensnet(config, tmp_path / name, device="cpu")
    assert not same(newest_weights(tmp_path / "l5"), newest_weights(tmp_path / "l6"))

    still = replace(lens, loop=replace(lens.loop, optimizer=OptimizerConfig(lr=0.0, adam_lr=0.0)))
    train_lensnet(still, tmp_path / "l3", device="cpu", init=tmp_path / "lens")
    exported = load_file(tmp_path / "lens" / "model.safetensors")
    kept = newest_weights(tmp_path / "l3")
    assert all(torch.equal(kept[name], value.float()) for name, value in exported.items())


def test_optimized_vector_beats_its_start(base: FrozenBase, shards: Path) -> None:
    streams = TokenStreams(open_shards(shards))
    figures = one_vector_ceiling(base, streams, rows=2, before=64, steps=10)
    assert figures["code_fitted"] < figures["code_mean"]
    further = one_vector_ceiling(base, streams, rows=2, before=64, steps=10, distance=64)
    assert further["code_fitted"] < further["code_mean"]
    assert further["code_delete"] != figures["code_delete"]
    assert further["code_repeated"] not in (further["code_fitted"], further["code_mean"])


def test_impossible_settings_and_foreign_gistnets_are_refused(
    tiny_base: Path, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"add up to 0\.5"):
        gist_settings(tiny_base, shards, phases=[{"share": 0.5}])
    with pytest.raises(ConfigError, match="'magic' is unknown"):
        gist_settings(tiny_base, shards, phases=[{"share": 1.0, "objectives": {"magic": 1.0}}])
    tilings = {"length": 64, "rows": 2, "gists": [1, 3], "tail": 1}
    with pytest.raises(ConfigError, match=r"phases.tilings.length: 64 leaves no block .* use 96"):
        gist_settings(tiny_base, shards, phases=[{"share": 1.0, "tilings": tilings}])
    with pytest.raises(ModelError, match="no readable gistnet checkpoint"):
        train_keys(key_settings(tiny_base, tmp_path / "none", shards), tmp_path, device="cpu")


@pytest.mark.slow
def test_two_processes_train_one_gistnet(tiny_base: Path, shards: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "loop": {"seed": 1, "budget": {"steps": 2}},
        "base": str(tiny_base),
        "shards": str(shards),
        "heldout": str(shards),
        "net": {"layers": 1, "left_context": 8, "keys": KEYS},
        "phases": [{"share": 1.0, "tilings": {"length": 256, "rows": 2, "gists": [1, 3]}}],
        "evaluation": {"rows": 1, "scored": 16},
    }
    config = tmp_path / "gistnet.yaml"
    config.write_text(json.dumps(fields))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "megacontext.core.training", "gistnet", "--device", "cpu"]
    command += ["--config", str(config), "--out", str(tmp_path / "two")]
    subprocess.run(
        [*command, "--export", str(tmp_path / "export")],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    alone = train_gistnet(build(GistNetTraining, fields), tmp_path / "one", device="cpu")
    figures = json.loads((tmp_path / "two" / "figures.json").read_text())
    assert figures.keys() == alone.keys()
    # Twice the rows a step: other gradients than one process has.
    assert not same(newest_weights(tmp_path / "two"), newest_weights(tmp_path / "one"))
    assert (tmp_path / "export" / "model.safetensors").is_file()
