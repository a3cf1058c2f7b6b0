"""torchrun: two processes over gloo train like one that sees all rows; figures are whole means."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[4]
ALONE = [sys.executable]
PAIR = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

pytestmark = pytest.mark.slow


def _train(launcher: list[str], arguments: list[str], out: Path) -> list[dict[str, str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / ".links")}
    command = [*launcher, "-m", "megacontext.core.training", *arguments]
    done = subprocess.run(
        [*command, "--out", str(out), "--device", "cpu", "--json"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len([figures for figures in said if figures]) == 1
    with (out / "metrics.csv").open(encoding="utf8", newline="") as file:
        return list(csv.DictReader(file))


def _column(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row[name]]


def _compare(arguments: list[str], folder: Path, columns: dict[str, float]) -> None:
    one = _train(ALONE, arguments, folder / "one")
    two = _train(PAIR, arguments, folder / "two")
    assert [row["tokens"] for row in two] == [row["tokens"] for row in one]
    for name, tolerance in columns.items():
        assert _column(two, name) == pytest.approx(_column(one, name), rel=tolerance), name


def test_two_processes_train_a_base_like_one(base_config: Path, tmp_path: Path) -> None:
    """With equal weights: a mean over answers is no mean of two means."""
    arguments = ["base", "--config", str(base_config)]
    arguments += ["--set", "answer_weight=1.0", "--set", "first_weight=1.0"]
    _compare(arguments, tmp_path, {"loss": 1e-4, "norm": 2e-3, "heldout_nll": 1e-3})


def test_two_processes_train_an_adapter_like_one(
    lora_fields: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "lora.yaml"
    file.write_text(yaml.safe_dump(lora_fields), encoding="utf8")
    columns = {"loss": 1e-4, "kl": 1e-3, "norm": 2e-3, "mixed_kl": 1e-3}
    _compare(["lora", "--config", str(file)], tmp_path, columns)


def test_rows_that_two_processes_cannot_share_are_refused(
    lora_fields: dict[str, Any], tmp_path: Path
) -> None:
    phase = lora_fields["phases"][0]
    odd = {**phase, "share": 1.0, "windows": {**phase["windows"], "rows": 3}}
    file = tmp_path / "lora.yaml"
    file.write_text(yaml.safe_dump({**lora_fields, "phases": [odd]}), encoding="utf8")
    with pytest.raises(AssertionError, match="3 rows cannot be shared by 2 processes"):
        _train(PAIR, ["lora", "--config", str(file)], tmp_path / "run")


def test_a_pair_resumes_what_one_process_began(base_config: Path, tmp_path: Path) -> None:
    arguments = ["base", "--config", str(base_config)]
    arguments += ["--set", "answer_weight=1.0", "--set", "first_weight=1.0"]
    whole = _train(ALONE, arguments, tmp_path / "whole")
    _train(ALONE, arguments, tmp_path / "part")
    step = "step-00000006"
    (tmp_path / "part" / "latest.json").write_text(json.dumps({"folder": step}))
    resumed = _train(PAIR, [*arguments, "--resume"], tmp_path / "part")
    assert _column(resumed, "loss") == pytest.approx(_column(whole, "loss"), rel=1e-4)


def test_the_other_trainers_run_in_two_processes(
    shards: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """Each process draws rows of its own there: two of them train on twice the rows."""
    common = {"base": tiny_base, "shards": shards, "heldout": shards, "loop.budget.steps": 2}
    built: dict[str, Path] = {}
    for trainer, config, reads in (
        ("gistnet", "gistnet-smoke", None),
        ("keys", "gistnet-keys-smoke", "gistnet"),
        ("lensnet", "lensnet-smoke", "keys"),
    ):
        built[trainer] = tmp_path / f"{trainer}-export"
        settings = dict(common) | ({"gistnet": built[reads]} if reads else {})
        arguments = [trainer, "--config", str(ROOT / "configs/train" / f"{config}.yaml")]
        arguments += ["--export", str(built[trainer])]
        arguments += [a for k, v in settings.items() for a in ("--set", f"{k}={v}")]
        one = _train(ALONE, arguments, tmp_path / f"{trainer}-one")
        two = _train(PAIR, arguments, tmp_path / trainer)
        assert int(two[-1]["tokens"]) == 2 * int(one[-1]["tokens"])
        assert all(math.isfinite(value) for value in _column(two, "loss"))
