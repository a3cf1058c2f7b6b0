"""A few thousand tokens of text as shards, and a base configuration that trains in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from megacontext.core.data.prepare import DataConfig, prepare
from megacontext.core.data.readers import Source

ROOT = Path(__file__).parents[3]
TOKENIZER = ROOT / "core/pretrained/demo/base"


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    source = Source("folder", str(ROOT / "core" / "data"), domain="code")
    prepare(DataConfig((source,), str(TOKENIZER)), folder)
    return folder


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
