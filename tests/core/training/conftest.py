"""A few thousand tokens of text as shards, and a base configuration that trains in seconds."""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from megacontext.core.data.prepare import DataConfig, prepare
from megacontext.core.data.readers import Source
from megacontext.core.data.tokenizer import load_tokenizer
from megacontext.core.model.base import BaseModel
from megacontext.core.training.common.frozen_base import FrozenBase

ROOT = Path(__file__).parents[3]
TOKENIZER = ROOT / "core/pretrained/demo/base"


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    # Not this project's own code: what tests measure must not move when a comment is written.
    source = Source("folder", str(Path(email.__file__).parent), domain="code")
    prepare(DataConfig((source,), str(TOKENIZER)), folder)
    return folder


@pytest.fixture(scope="session")
def run_jobs() -> Callable[[list[dict[str, Any]], Path], list[int]]:
    """Runs training commands, some of which kill themselves; see ``killed_run.py``."""

    def run(jobs: list[dict[str, Any]], folder: Path) -> list[int]:
        file = folder / "jobs.json"
        file.write_text(json.dumps(jobs))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / ".links")}
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("killed_run.py")), str(file)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        codes: list[int] = json.loads(done.stdout.splitlines()[-1])
        assert 70 not in codes, done.stderr
        return codes

    return run


@pytest.fixture
def base_config(shards: Path, tmp_path: Path) -> Path:
    """YAML file of a tiny run: 8 steps, two phases, evaluation at steps 3 and 6."""
    value: dict[str, Any] = {
        "tokenizer": str(TOKENIZER),
        "shards": str(shards),
        "heldout": str(shards),
        "model": {"dim": 32, "layers": 1, "heads": 2, "kv_heads": 1, "ffn": 32, "window": 256},
        "loop": {
            "seed": 3,
            "budget": {"steps": 8},
            "schedule": {"warmup_steps": 2},
            "log_every": 1,
            "eval_steps": 3,
        },
        "phases": [
            {"share": 0.5, "length": 128, "batch_tokens": 256, "recall": 0.5},
            {"share": 0.5, "length": 256, "batch_tokens": 512, "recall": 0.5, "gappy": 0.5},
        ],
        "evaluation": {
            "rows": 1,
            "length": 128,
            "recall_samples": 2,
            "recall_lengths": [256],
            "facts": 1,
        },
    }
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(value), encoding="utf8")
    return path


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with the bundle's tokenizer, as a model folder."""
    folder = tmp_path_factory.mktemp("tiny-base")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=8192,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def base(tiny_base: Path) -> FrozenBase:
    return FrozenBase(BaseModel.load(str(tiny_base), device="cpu"))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return load_tokenizer(TOKENIZER)


@pytest.fixture(scope="session")
def lora_fields(shards: Path, tiny_base: Path) -> dict[str, Any]:
    """Configuration of a tiny adapter: 4 steps, two phases, a checkpoint every 2 steps."""
    windows = {"length": 256, "rows": 2, "scored": 16, "gists": [1, 3], "tail": 2, "recall": 0.0}
    return {
        "base": str(tiny_base),
        "shards": str(shards),
        "heldout": str(shards),
        "gister": "token",
        "lora": {"rank": 2, "alpha": 4, "targets": ["q_proj", "down_proj"]},
        "guard": {"rows": 1, "length": 64},
        "loop": {
            "seed": 5,
            "budget": {"steps": 4},
            "schedule": {"warmup_steps": 1},
            "optimizer": {"kind": "adamw", "adam_lr": 0.003},
            "checkpoint_steps": 2,
            "log_every": 1,
        },
        "phases": [
            {"share": 0.5, "windows": windows},
            {"share": 0.5, "windows": {**windows, "recall": 0.5}},
        ],
        "evaluation": {"batches": 1, "windows": windows},
    }
