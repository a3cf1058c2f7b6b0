"""The LoRA trainer: learns, stays near the original base, exports what a run can load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from megacontext.core.config.parser import build
from megacontext.core.model.base import BaseModel
from megacontext.core.training.common.frozen_base import FrozenBase
from megacontext.core.training.loop import checkpoint
from megacontext.core.training.loop.distributed import DistributedContext, RankDataset, join_world
from megacontext.core.training.loop.trainer import Trainer
from megacontext.core.training.lora.evaluate import GuardError
from megacontext.core.training.lora.layers import LoraLayers, LoraShape
from megacontext.core.training.lora.task import LoraTask, LoraTraining, make_gister, train_lora
from megacontext.traces.errors import ConfigError, StorageError

Fields = dict[str, Any]
CPU = torch.device("cpu")


def _task(fields: Fields) -> LoraTask:
    config = build(LoraTraining, fields)
    base = FrozenBase(BaseModel.load(config.base, device="cpu"))
    return LoraTask(config, base, make_gister(config, base), join_world("cpu"))


def _disturb(layers: LoraLayers, size: float) -> None:
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in layers.named_parameters():
            if name.endswith("up"):
                parameter.copy_(torch.randn(parameter.shape, generator=source) * size)


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_can_be_switched_off(
    tiny_base: Path,
) -> None:
    base = FrozenBase(BaseModel.load(str(tiny_base), device="cpu"))
    x = base.embed(torch.arange(40)[None])
    before = base.hidden(x)
    layers = LoraLayers(base, LoraShape(rank=2), seed=1)
    assert torch.equal(base.hidden(x), before)
    _disturb(layers, 0.5)
    assert not torch.allclose(base.hidden(x), before, atol=1e-3)
    with layers.off():
        assert torch.equal(base.hidden(x), before)


def test_steps_on_one_batch_reduce_the_loss_and_move_the_adapter_alone(
    lora_fields: Fields,
) -> None:
    task = _task(lora_fields)
    frozen = {n: p.clone() for n, p in task._base.module.named_parameters()}
    batch = {name: value[0] for name, value in task.dataset(1)[0].items()}
    adam = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        adam.zero_grad()
        loss, figures = task.loss(batch)
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1e-4
    assert float(figures["guard"].detach()) > 0
    assert all(torch.equal(p, frozen[n]) for n, p in task._base.module.named_parameters())


def test_without_weight_the_guard_is_measured_but_takes_no_part_in_the_loss(
    lora_fields: Fields,
) -> None:
    losses = []
    for weight in (0.0, 1.0):
        task = _task({**lora_fields, "guard": {**lora_fields["guard"], "weight": weight}})
        _disturb(task.layers, 0.5)
        batch = {name: value[0] for name, value in task.dataset(0)[0].items()}
        loss, figures = task.loss(batch)
        losses.append((float(loss.detach()), float(figures["guard"].detach())))
    assert losses[0][1] > 1e-4
    assert losses[1][0] - losses[0][0] == pytest.approx(losses[0][1], rel=1e-4)


@pytest.mark.filterwarnings("error::UserWarning")  # no graph is kept while judging
def test_figures_name_what_the_adapter_gains_and_what_it_costs(lora_fields: Fields) -> None:
    task = _task(lora_fields)
    fresh = task.evaluate()
    assert set(fresh) == set(task.eval_names)
    assert fresh["guard_kl"] == pytest.approx(0, abs=1e-7)
    assert fresh["mixed_kl"] == fresh["mixed_kl_off"] == fresh["score"] > 0
    _disturb(task.layers, 0.05)
    moved = task.evaluate()
    assert moved["mixed_kl_off"] == fresh["mixed_kl_off"]
    assert moved["mixed_kl"] != fresh["mixed_kl"]
    assert 0 < moved["guard_kl"] <= moved["guard_kl_max"]


def test_a_checkpoint_beyond_the_guard_is_neither_best_nor_exported(
    lora_fields: Fields, tmp_path: Path
) -> None:
    guard = {**lora_fields["guard"], "bound": 1e-12, "stop": 5.0}
    config = build(LoraTraining, {**lora_fields, "guard": guard})
    figures = train_lora(config, tmp_path / "run", device="cpu", export=tmp_path / "adapter")
    assert figures["guard_kl"] > 1e-12
    assert "score" not in figures
    assert checkpoint.find(tmp_path / "run") is not None
    assert checkpoint.find(tmp_path / "run", "best") is None
    assert not (tmp_path / "adapter").exists()


def test_training_stops_far_beyond_the_guard_and_keeps_the_checkpoint_before(
    lora_fields: Fields, tmp_path: Path
) -> None:
    guard = {**lora_fields["guard"], "bound": 1e-12, "stop": 1e-11}
    with pytest.raises(GuardError, match=r"guard\.stop: KL to the original base on raw text is"):
        train_lora(build(LoraTraining, {**lora_fields, "guard": guard}), tmp_path, device="cpu")
    kept = checkpoint.find(tmp_path)
    assert kept is not None
    assert kept.name == "step-00000004"


def test_the_exported_adapter_loads_as_the_model_that_was_judged(
    lora_fields: Fields, tmp_path: Path
) -> None:
    config = build(LoraTraining, lora_fields)
    train_lora(config, tmp_path / "run", device="cpu", export=tmp_path / "adapter")
    task = _task(lora_fields)
    Trainer(task, config.loop, tmp_path / "run", join_world("cpu")).run(resume=True)
    loaded = FrozenBase(
        BaseModel.load(config.base, device="cpu", adapter=str(tmp_path / "adapter"))
    )
    x = loaded.embed(torch.arange(100, 160)[None])
    torch.testing.assert_close(loaded.hidden(x), task._base.hidden(x), atol=1e-5, rtol=1e-5)
    with task.layers.off():
        assert float((loaded.hidden(x) - task._base.hidden(x)).abs().max()) > 1e-4
    facts = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert facts["target_modules"] == ["down_proj", "q_proj"]


def test_a_checkpoint_of_another_rank_is_refused(lora_fields: Fields, tmp_path: Path) -> None:
    train_lora(build(LoraTraining, lora_fields), tmp_path, device="cpu")
    wider = build(LoraTraining, {**lora_fields, "lora": {**lora_fields["lora"], "rank": 3}})
    with pytest.raises(StorageError, match=r"down \(2, 48\) and the model has it \(3, 48\)"):
        train_lora(wider, tmp_path, device="cpu", resume=True)


def test_processes_share_the_rows_that_one_would_see(lora_fields: Fields) -> None:
    rows = _task(lora_fields)._rows[1]
    whole = rows[3]
    parts = [RankDataset(rows, DistributedContext(rank, 2, CPU), 2, "rows")[3] for rank in (0, 1)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts], dim=1), value)
    with pytest.raises(ConfigError, match="rows: 2 rows cannot be shared by 3 processes"):
        RankDataset(rows, DistributedContext(0, 3, CPU), 2, "rows")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gister": "gistnet"}, r"gistnet: '' does not go with gister 'gistnet'"),
        ({"gistnet": "somewhere"}, r"'somewhere' does not go with gister 'token'"),
        ({"phases": [{"share": 0.5}]}, r"add up to 0\.5"),
        ({"guard": {"bound": 0.3, "stop": 0.2}}, r"guard\.bound: 0\.3"),
        ({"lora": {"rank": 0}}, r"lora\.rank: 0"),
        ({"lora": {"targets": ["wq"]}}, r"no linear layer 'wq'; name some of down_proj"),
        (
            {"phases": [{"share": 1.0, "windows": {"length": 100}}]},
            r"windows\.length: 100 is no multiple of block size 32",
        ),
        (
            {"phases": [{"share": 1.0, "windows": {"length": 1024, "groups": 1}}]},
            r"windows\.groups: 1 groups of 32 blocks do not fit 28 blocks",
        ),
        ({"phases": [{"share": 1.0, "windows": {"gists": [0, 3]}}]}, r"windows\.gists"),
    ],
)
def test_impossible_settings_are_refused_with_their_key(
    lora_fields: Fields, change: Fields, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _task({**lora_fields, **change})
