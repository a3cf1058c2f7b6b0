"""Every trainer's smoke configuration runs, is killed, resumes, and has the unbroken curve.

The configurations of ``configs/train`` run through the command line, on a tiny base model and in
few steps: bundle weights take no part.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megacontext.core.rng import generator

ROOT = Path(__file__).parents[3]
STEPS = 6
TRAINERS = {  # in the order in which they feed each other
    "base": "base-smoke",
    "gistnet": "gistnet-smoke",
    "keys": "gistnet-keys-smoke",
    "lensnet": "lensnet-smoke",
    "lora": "lora-smoke",
}
EACH = [
    trainer if trainer == "base" else pytest.param(trainer, marks=pytest.mark.slow)
    for trainer in TRAINERS
]
KILL_AT = {"base": 5, "gistnet": 3, "keys": 4, "lensnet": 5, "lora": 3}
EXPORTED = {
    "base": "config.json",
    "gistnet": "model.safetensors",
    "keys": "model.safetensors",
    "lensnet": "model.safetensors",
    "lora": "adapter_model.safetensors",
}
Job = dict[str, Any]
RunJobs = Callable[[list[Job], Path], list[int]]


def _arguments(trainer: str, runs: Path, out: str, shards: Path, base: Path) -> list[str]:
    gistnet = {"keys": "gistnet", "lensnet": "keys", "lora": "gistnet"}.get(trainer)
    settings = {
        "shards": shards,
        "heldout": shards,
        "loop.budget.steps": STEPS,
        "loop.log_every": 1,
        "loop.eval_steps": 4,
        "loop.checkpoint_steps": 2,
    }
    if trainer != "base":
        settings["base"] = base
    if gistnet:
        settings["gistnet"] = runs / f"{gistnet}-unbroken" / "export"
    config = ROOT / "configs/train" / f"{TRAINERS[trainer]}.yaml"
    folder = runs / f"{trainer}-{out}"
    arguments = [trainer, "--config", str(config), "--out", str(folder), "--device", "cpu"]
    arguments += ["--export", str(folder / "export"), "--json"]
    return arguments + [a for k, v in settings.items() for a in ("--set", f"{k}={v}")]


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    shards: Path,
    tiny_base: Path,
    run_jobs: RunJobs,
) -> Path:
    """For each trainer a run ``X-unbroken`` and one ``X-killed`` that was killed and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    trainers = TRAINERS if request.config.getoption("--slow") else ("base",)
    jobs: list[Job] = []
    for trainer in trainers:
        unbroken = _arguments(trainer, folder, "unbroken", shards, tiny_base)
        killed = _arguments(trainer, folder, "killed", shards, tiny_base)
        jobs.append({"arguments": unbroken})
        jobs.append({"arguments": killed, "kill_at": KILL_AT[trainer]})
        jobs.append({"arguments": [*killed, "--resume"]})
    assert run_jobs(jobs, folder) == [0, -9, 0] * len(trainers)
    return folder


def _curve(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf8", newline="") as file:
        return [
            {k: v for k, v in row.items() if k != "tokens_per_s"} for row in csv.DictReader(file)
        ]


def _same(run: Path, other: Path) -> None:
    assert _curve(run) == _curve(other)
    last = f"step-{STEPS:08d}"
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (run / last / name).read_bytes() == (other / last / name).read_bytes()
    for path in (other / "export").glob("*.safetensors"):
        assert (run / "export" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("trainer", EACH)
def test_a_smoke_run_logs_every_step_and_exports_what_it_made(runs: Path, trainer: str) -> None:
    run = runs / f"{trainer}-unbroken"
    logged = [int(row["step"]) for row in _curve(run) if row["loss"]]
    assert logged == list(range(1, STEPS + 1))
    assert (run / "metrics.arrow").is_file()
    assert "<polyline" in (run / "metrics.html").read_text()
    assert (run / "export" / EXPORTED[trainer]).is_file()


@pytest.mark.parametrize("trainer", EACH)
def test_a_run_killed_at_a_step_resumes_to_the_curve_of_the_unbroken_one(
    runs: Path, trainer: str
) -> None:
    _same(runs / f"{trainer}-killed", runs / f"{trainer}-unbroken")


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_run_killed_again_and_again_while_it_writes_ends_with_the_unbroken_curve(
    runs: Path,
    trainer: str,
    shards: Path,
    tiny_base: Path,
    tmp_path: Path,
    run_jobs: RunJobs,
) -> None:
    folder = runs / f"{trainer}-hunted"
    arguments = [*_arguments(trainer, runs, "hunted", shards, tiny_base), "--resume"]
    kills = generator(7, f"test.kills.{trainer}").integers(1, 20, 12)
    jobs: list[Job] = [
        {"arguments": arguments, "kill_at_change": int(n), "folder": str(folder)} for n in kills
    ]
    codes = run_jobs([*jobs, {"arguments": arguments}], tmp_path)
    assert codes.count(-9) >= 3
    assert codes[-1] == 0
    _same(folder, runs / f"{trainer}-unbroken")
