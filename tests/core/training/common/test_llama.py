"""The training model is the Hugging Face Llama, weight for weight and logit for logit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megacontext.core.training.base.task import export_base, load_weights
from megacontext.core.training.common.llama import Llama, LlamaShape
from megacontext.traces.errors import ConfigError

SHAPE = LlamaShape(dim=64, layers=3, heads=4, kv_heads=2, ffn=96, vocab_size=8192, window=128)
TOKENIZER = Path(__file__).parents[4] / "core/pretrained/demo/base"


def _model(seed: int = 3) -> Llama:
    model = Llama(SHAPE)
    model.init_weights(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # bf16 values, so that the export is exact
            parameter.mul_(3.0)
            parameter.copy_(parameter.bfloat16().float())
    return model


def test_exported_folder_has_the_same_logits_in_float32(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = _model()
    export_base(model, TOKENIZER, tmp_path)
    other = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = torch.randint(0, 8192, (2, 100), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model(tokens), other(tokens).logits
    assert float((ours - theirs).abs().max()) < 2e-5 * float(theirs.abs().max()) + 1e-6
    assert float(theirs.std()) > 0.1
    assert other.config.max_position_embeddings == SHAPE.window
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "def f(x):\n    return x + 48213  # ünïcode"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_rope_theta_of_the_export_reaches_the_loaded_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    export_base(_model(), TOKENIZER, tmp_path)
    other = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    expected = 1 / SHAPE.rope_theta ** (torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(other.model.rotary_emb.inv_freq.cpu(), expected)


def test_weights_of_an_export_load_back(tmp_path: Path) -> None:
    model = _model()
    export_base(model, TOKENIZER, tmp_path)
    again = Llama(SHAPE)
    load_weights(again, tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    export_base(_model(), TOKENIZER, tmp_path)
    wider = LlamaShape(dim=64, layers=3, heads=4, kv_heads=2, ffn=128, window=128)
    with pytest.raises(ConfigError, match="gate_proj"):
        load_weights(Llama(wider), tmp_path)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.heads"):
        LlamaShape(dim=64, heads=5)
