"""``model.adapter``: a session decodes with the merged weights and its config says so."""

import torch

from megacontext.core.config import dump_config, parse_config
from megacontext.core.model.adapter import write_adapter
from megacontext.core.model.base import BaseModel
from megacontext.core.runtime.build import build_parts

LAYER = "model.layers.0.self_attn.v_proj"


def test_a_session_is_built_over_the_merged_weights(config_text, model_folder, tmp_path):
    base = BaseModel.load(str(model_folder), device="cpu")
    before = base.module.get_submodule(LAYER).weight
    pair = (torch.ones(1, before.shape[1]), torch.ones(before.shape[0], 1))
    write_adapter(
        tmp_path / "adapter",
        {LAYER: pair},
        2.0,
        base_path=str(model_folder),
        embedding=base.embedding_matrix,
    )
    text = config_text.replace("dtype: float32", f"dtype: float32, adapter: {tmp_path / 'adapter'}")
    config = parse_config(text)
    parts = build_parts(config)
    try:
        merged = parts.base.module.get_submodule(LAYER).weight
        torch.testing.assert_close(merged, before + 2)
        assert str(tmp_path / "adapter") in str(dump_config(config))
    finally:
        parts.close()
