"""A batch over the tiny model."""

import numpy as np
import pytest


@pytest.fixture
def batch_file(tmp_path, model_folder):
    """Two overrides of one config over two streams: four jobs."""
    rng = np.random.default_rng(5)
    for name in "ab":
        words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(100)]
        (tmp_path / f"{name}.txt").write_text(" ".join(words))
    (tmp_path / "tiny.yaml").write_text(
        f"""
w_max: 128
block_size: 8
model: {{path: {model_folder}, dtype: float32}}
gist: {{kind: mean}}
tree: {{max_levels: 3}}
lens: {{kind: recency}}
"""
    )
    path = tmp_path / "batch.yaml"
    path.write_text(
        f"""
configs: [tiny.yaml]
seeds: [4]
overrides:
  plain:
  random: [lens.kind=random, focus.n_diff=8]
streams:
  a: {{kind: text, path: {tmp_path}/a.txt, max_tokens: 300, decode_tokens: 4}}
  b: {{kind: text, path: {tmp_path}/b.txt, max_tokens: 200}}
out: {tmp_path}/out
"""
    )
    return path
