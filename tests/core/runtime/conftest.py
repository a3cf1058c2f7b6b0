"""A text, a run's config over the tiny model, and the reader that knows only pyarrow."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def text_file(tmp_path):
    rng = np.random.default_rng(5)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(40)]
    path = tmp_path / "text.txt"
    path.write_text(" ".join(rng.choice(words, 700)))
    return path


@pytest.fixture
def config_text(model_folder, text_file):
    return f"""
seed: 3
w_max: 128
block_size: 8
model: {{path: {model_folder}, dtype: float32}}
tree: {{max_levels: 3}}
kv: {{drift_every: 16, refresh_every: 512, refresh_chunk: 64}}
source: {{kind: text, path: {text_file}, max_tokens: 1500, decode_tokens: 24}}
"""


@pytest.fixture(scope="session")
def plain():
    """The reader that knows only pyarrow and docs/formats.md."""
    path = Path(__file__).parents[2] / "contract" / "plain_reader.py"
    spec = importlib.util.spec_from_file_location("plain_reader", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
