"""A joint run: killed in each phase it ends as the unbroken one; what does harm is rolled back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import LlamaForCausalLM

from megacontext.core import Engine
from megacontext.core.config.parser import build
from megacontext.core.config.settings import load
from megacontext.core.data.shards import open_shards
from megacontext.core.gistnet.gister import NetGister, save_gistnet
from megacontext.core.gistnet.keys import KeyConfig
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.gistnet.pairing import body_fingerprint, read_pairing, stale_reason
from megacontext.core.lensnet.lens import load_lensnet, save_lensnet
from megacontext.core.lensnet.module import LensNet, LensNetConfig
from megacontext.core.model.base import BaseModel
from megacontext.core.training.joint.config import JointTraining
from megacontext.core.training.joint.evaluate import Components
from megacontext.core.training.joint.state import set_aside_run
from megacontext.core.training.joint.task import recipe, steps, train_joint
from megacontext.traces.errors import ConfigError, StorageError

ROOT = Path(__file__).parents[4]
KEYS = KeyConfig(width=16, layers=1, heads=2, ffn=24, context_dim=16, lexical_dim=16)
PHASES = ("01-gistnet", "02-lensnet", "03-lora")
# Four steps a phase; every part is judged on next to nothing.
LOOP = ["loop.budget.steps=4", "loop.eval_steps=2", "loop.checkpoint_steps=1", "loop.log_every=1"]
LENS = ["evaluation.far=1", "evaluation.far_blocks=48", "evaluation.short_blocks=48"]
LENS += ["evaluation.near=1", "evaluation.plain=0"]
WINDOWS = {"length": 512, "rows": 2, "scored": 32, "gists": [2, 8], "tail": 2}
RunJobs = Callable[[list[dict[str, Any]], Path], list[int]]


def _make_parts(folder: Path, base: Path) -> Path:
    """An untrained GistNet with keys and a LensNet of it, for a base model."""
    table = BaseModel.load(str(base), device="cpu", dtype="float32").embedding_matrix
    gistnet = GistNet(GistNetConfig(32, 32, 8, 1, 2, 1, 48, gist_rms=0.02, keys=KEYS))
    gistnet.init_weights(0)
    save_gistnet(gistnet, folder / "gistnet", table)
    lens = LensNet(LensNetConfig(32, KEYS.key_dim, 32, width=16, heads=2))
    lens.init_weights(0)
    save_lensnet(lens, folder / "lensnet", NetGister.load(folder / "gistnet", table))
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """What the joint run trains, for the tiny base model."""
    return _make_parts(tmp_path_factory.mktemp("parts"), tiny_base)


@pytest.fixture(scope="module")
def fields(parts: Path, tiny_base: Path, shards: Path) -> dict[str, Any]:
    """A joint run of three short phases, all of which are kept."""
    recipes = ROOT / "configs/train"
    phases = [
        {"train": "gistnet", "config": str(recipes / "gistnet-smoke.yaml"), "set": LOOP},
        {"train": "lensnet", "config": str(recipes / "lensnet-smoke.yaml"), "set": [*LOOP, *LENS]},
        {"train": "lora", "config": str(recipes / "lora-smoke.yaml"), "set": LOOP},
    ]
    return {
        "base": str(tiny_base),
        "gistnet": str(parts / "gistnet"),
        "lensnet": str(parts / "lensnet"),
        "shards": str(shards),
        "heldout": str(shards),
        "tolerance": 100.0,
        "guard": {"vanilla_nll_rise": 100.0, "task_nll_rise": 100.0},
        "phases": phases,
        "evaluation": {
            "vanilla_rows": 1,
            "vanilla_length": 128,
            "tasks": 2,
            "task_length": 256,
            "batches": 1,
            "windows": WINDOWS,
        },
    }


def _arguments(fields: dict[str, Any], folder: Path, out: str) -> list[str]:
    config = folder / "joint.yaml"
    config.write_text(yaml.safe_dump(fields), encoding="utf8")
    run = folder / out
    arguments = ["joint", "--config", str(config), "--out", str(run), "--device", "cpu"]
    return [*arguments, "--export", str(run / "export"), "--json"]


@pytest.fixture(scope="module")
def runs(
    fields: dict[str, Any], run_jobs: RunJobs, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """``unbroken``, and ``killed``: a kill in the middle of each phase, resumed each time."""
    folder = tmp_path_factory.mktemp("joint")
    killed = _arguments(fields, folder, "killed")
    jobs: list[dict[str, Any]] = [{"arguments": _arguments(fields, folder, "unbroken")}]
    for number, phase in enumerate(PHASES):
        resume = ["--resume"] if number else []
        jobs.append({"arguments": [*killed, *resume], "kill_at": 3, "kill_in": phase})
    jobs.append({"arguments": [*killed, "--resume"]})
    assert run_jobs(jobs, folder) == [0, -9, -9, -9, 0]
    return folder


def _state(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((run / "joint.json").read_text())
    return state


def test_the_parts_that_a_joint_run_exports_fit(runs: Path, tiny_base: Path) -> None:
    export = runs / "unbroken/export"
    assert _state(runs / "unbroken")["components"]["adapter"]  # the base model was refreshed
    model = BaseModel.load(str(tiny_base), device="cpu", dtype="float32").module
    assert stale_reason(export / "gistnet", model, export / "adapter") == ""
    assert read_pairing(export / "gistnet") == {"adapter": "", "body": body_fingerprint(model)}
    facts = json.loads((export / "adapter/megacontext.json").read_text())
    assert (
        facts["gistnet"]
        == json.loads((export / "gistnet/config.json").read_text())["checkpoint_id"]
    )


def test_a_run_killed_in_each_phase_resumes_to_the_same_result(runs: Path) -> None:
    unbroken, killed = runs / "unbroken", runs / "killed"
    assert _state(killed) == _state(unbroken)
    assert (killed / "metrics.csv").read_bytes() == (unbroken / "metrics.csv").read_bytes()
    weights = sorted((unbroken / "export").glob("*/*.safetensors"))
    assert [path.parent.name for path in weights] == ["adapter", "gistnet", "lensnet"]
    for path in weights:
        other = killed / path.relative_to(unbroken)
        assert other.read_bytes() == path.read_bytes()


def test_each_phase_hands_what_it_trained_to_the_next(
    runs: Path, parts: Path, tiny_base: Path
) -> None:
    run = runs / "unbroken"
    state = _state(run)
    assert [phase["accepted"] for phase in state["phases"]] == [True, True, True]
    names = {"gistnet": "01-gistnet", "lensnet": "02-lensnet", "adapter": "03-lora"}
    assert state["components"] == {part: f"{name}/export" for part, name in names.items()}
    for part in ("gistnet", "lensnet"):
        own = (run / "export" / part / "model.safetensors").read_bytes()
        assert own != (parts / part / "model.safetensors").read_bytes()
    # The lens belongs to the new GistNet, before it was trained on its gists and after.
    table = BaseModel.load(str(tiny_base), device="cpu", dtype="float32").embedding_matrix
    gister = NetGister.load(run / "export/gistnet", table)
    for folder in (run / "01-gistnet/lensnet", run / "export/lensnet"):
        load_lensnet(folder, gister)


def test_the_exported_session_runs_with_what_was_trained(runs: Path) -> None:
    session = runs / "unbroken/export/session.yaml"
    with Engine.load(config=session, w_max=256) as engine:
        engine.append("One two three four five. " * 100)
        engine.refocus()
        assert engine.n_tokens > 256 >= engine.working_context.cost


def _train_base(folder: Path, tiny_base: Path, shards: Path) -> Path:
    """A base model that knows which tokens are frequent: a random one cannot be harmed."""
    shutil.copytree(tiny_base, folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    documents = np.concatenate(next(iter(open_shards(shards).streams.values())))
    ids = torch.from_numpy(documents[: 60 * 256].astype(np.int64)).view(60, 256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in ids.split(4):
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def harmed(
    fields: dict[str, Any],
    tiny_base: Path,
    shards: Path,
    run_jobs: RunJobs,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A cycle of a LoRA phase at a rate that ruins the base model, its own config's guard off:
    ``guarded`` by the joint run's bounds, and ``free`` of them."""
    folder = tmp_path_factory.mktemp("harm")
    base = _train_base(folder / "base", tiny_base, shards)
    parts = _make_parts(folder / "parts", base)
    fields = fields | {
        "base": str(base),
        "gistnet": str(parts / "gistnet"),
        "lensnet": str(parts / "lensnet"),
    }
    lora = fields["phases"][2]
    harm = ["loop.optimizer.adam_lr=3.0", "guard.bound=1000.0", "guard.stop=1000.0"]
    harm += ["guard.weight=0.0"]
    harmful = {**fields, "phases": [{**lora, "set": [*lora["set"], *harm]}]}
    bounds = {"vanilla_nll_rise": 0.02, "task_nll_rise": 0.05}
    jobs = []
    for name, changed in (("guarded", {**harmful, "guard": bounds}), ("free", harmful)):
        (folder / name).mkdir()
        jobs.append({"arguments": _arguments(changed, folder / name, "run")})
    assert run_jobs(jobs, folder) == [0, 0]
    return folder


def test_the_drift_guard_rolls_a_harmful_lora_step_back(harmed: Path) -> None:
    run = harmed / "guarded/run"
    state = _state(run)
    (phase,) = state["phases"]
    assert not phase["accepted"]
    assert "vanilla_nll rose by" in phase["reason"]
    assert "above vanilla_nll_rise 0.02" in phase["reason"]
    # What the run goes on with is what it started from, to the bit.
    assert state["components"]["adapter"] == ""
    assert state["scores"] == state["reference"]
    assert (run / "01-lora/export").is_dir()
    assert not (run / "export/adapter").exists()


def test_without_bounds_the_same_harmful_step_would_stay(harmed: Path) -> None:
    run = harmed / "free/run"
    (phase,) = _state(run)["phases"]
    assert phase["accepted"]
    rise = phase["after"]["vanilla_nll"] - _state(run)["reference"]["vanilla_nll"][0]
    assert rise > 0.02
    assert (run / "export/adapter").is_dir()


def test_a_run_with_other_settings_is_not_resumed(
    runs: Path, fields: dict[str, Any], tmp_path: Path
) -> None:
    other = build(JointTraining, {**fields, "seed": 7})
    with pytest.raises(StorageError, match="belongs to another configuration"):
        train_joint(other, runs / "unbroken", device="cpu", resume=True)


def test_a_new_run_sets_the_old_one_in_its_folder_aside(tmp_path: Path) -> None:
    (tmp_path / "01-gistnet").mkdir()
    assert set_aside_run(tmp_path) is None
    (tmp_path / "joint.json").write_text("{}")
    target = set_aside_run(tmp_path)
    assert target == tmp_path / "previous"
    assert sorted(path.name for path in target.iterdir()) == ["01-gistnet", "joint.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["previous"]


@pytest.mark.parametrize("name", ["joint", "joint-smoke"])
def test_the_phases_of_a_packaged_config_can_be_read(name: str) -> None:
    config = load(JointTraining, Path(f"configs/train/{name}.yaml"))
    start = Components(config.gistnet, config.lensnet)
    recipes = [recipe(config, step, start) for step in steps(config)]
    kinds = ["GistNetTraining", "LensNetTraining", "LoraTraining"] * config.cycles
    assert [type(r).__name__ for r in recipes] == kinds
    assert [r.loop.seed for r in recipes] == [1 + (i // 3) + 1 for i in range(len(recipes))]
    assert all(r.base == config.base and r.shards == config.shards for r in recipes)


def test_several_processes_are_refused(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        train_joint(build(JointTraining, fields), tmp_path, device="cpu")
