"""Any architecture gives a plain forward's logits, or is refused with its reason."""

import json

import numpy as np
import pytest
import torch

from megacontext.core.model import BaseModel, KVWindow
from megacontext.core.model.parity import Verdict, check_parity
from megacontext.core.model.rotary import probe_rotary
from megacontext.core.model.tiny import tiny_config, tiny_module
from megacontext.core.model.verdicts import parity_of
from megacontext.traces.schema import KVMode

EQUAL = ("llama", "qwen2", "phi3", "gemma2", "gpt_oss", "mistral", "olmo2", "granite", "smollm3")
EXACT = {
    "gpt2": "layer 0 does not rotate its keys by position",
    "deepseek_v3": "what layer 0 caches as values has positions",
    "gemma3_text": "its layers rotate by different frequencies",
}
REFUSED = {
    "gemma3n_text": "every layer reads a second embedding of each token (per-layer inputs)",
    "lfm2": "it has layers of type conv",
    "roberta": "its learned positions start behind the padding id",
    "bloom": "its positions are ALiBi biases",
    "gpt_neo": "it has local layers that count cache slots, not rows",
    "mamba": "do not keep keys and values of single rows",
}


def model(kind: str, **changes) -> BaseModel:
    config = tiny_config(kind)
    for name, value in changes.items():
        setattr(config, name, value)
    return BaseModel.from_module(tiny_module(config), name=kind)


def plain(base: BaseModel, ids: np.ndarray) -> torch.Tensor:
    return base.module(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0].float()


@pytest.mark.parametrize("kind", EQUAL)
def test_equal_in_both_modes_also_past_the_reach_of_local_layers(kind):
    base = model(kind)
    assert check_parity(base, 256) == Verdict(None, None)
    assert probe_rotary(base).reason is None
    # Not only by its own word: other tokens, other pieces, in splice.
    ids = np.random.default_rng(5).integers(3, base.vocab_size, 150)
    window = KVWindow(base, 160)
    assert window.mode is KVMode.SPLICE
    got = torch.cat([window.append(ids[at : at + 50]).logits for at in range(0, 150, 50)])
    with torch.no_grad():
        assert (got - plain(base, ids)).abs().max() < 1e-3


@pytest.mark.parametrize("kind", EXACT)
def test_equal_in_exact_only_says_why(kind):
    base = model(kind)
    assert check_parity(base, 256).refusal is None
    (note,) = KVWindow(base, 64).notes
    assert EXACT[kind] in note


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_says_what_it_has(kind):
    verdict = check_parity(model(kind), 256)
    assert verdict.refusal is not None
    assert REFUSED[kind] in verdict.refusal


def test_an_encoder_is_refused():
    config = tiny_config("bert")
    config.is_decoder = False
    refusal = check_parity(BaseModel.from_module(tiny_module(config)), 64).refusal
    assert refusal == "it is an encoder, which reads in both directions (is_decoder is false)"


def test_a_mask_that_forgets_the_local_layers_is_noticed():
    base = model("mistral")
    base.local = None
    refusal = check_parity(base, 256).refusal
    assert refusal is not None
    assert "its logits in a working context are not its own" in refusal


def test_a_boolean_mask_in_eager_attention_is_noticed(monkeypatch):
    base = model("gemma2")
    monkeypatch.setattr(BaseModel, "_model_mask", lambda self, mask: mask[None, None])
    assert check_parity(base, 32).refusal is not None


def test_keys_that_do_not_move_are_noticed(monkeypatch):
    from megacontext.core.model.slotted_cache import SlottedCache

    monkeypatch.setattr(SlottedCache, "move", lambda self, slots, positions: None)
    assert check_parity(model("llama"), 64).splice == "its keys do not move with their positions"


def test_damaged_weights_are_noticed():
    base = model("llama")
    base.module.model.layers[1].mlp.down_proj.weight[3, 3] = float("nan")
    assert check_parity(base).refusal == (
        "its logits are not finite (NaN): weights of it are damaged"
    )


def test_longrope_is_bounded_by_its_switch():
    config = tiny_config("phi3")
    config.rope_parameters = {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 128,
        "short_factor": [1.0] * 8, "long_factor": [1 + 0.5 * i for i in range(8)],
    }  # fmt: skip
    config.original_max_position_embeddings = 128
    base = BaseModel.from_module(tiny_module(config))
    assert base.window == 128
    assert "rotates all positions another way beyond 128 (longrope)" in base.bound.why
    assert check_parity(base, 128) == Verdict(None, None)


def test_scaled_embeddings_are_what_gists_are_made_of():
    base = model("gemma")
    ids = np.arange(40)
    assert torch.equal(base.embedding_matrix[ids], base.embed(ids))
    assert base.embedding_matrix.std() > 4 * base.module.get_input_embeddings().weight.std()


def test_a_verdict_is_kept_for_the_same_weights_and_no_others(tmp_path, monkeypatch):
    from megacontext.core.model.files import ModelFiles

    monkeypatch.setenv("MEGACONTEXT_CACHE", str(tmp_path / "cache"))
    calls = []
    monkeypatch.setattr(
        "megacontext.core.model.verdicts.check_parity",
        lambda base, w_max: calls.append(w_max) or Verdict(None, "x"),
    )
    folder = tmp_path / "model"
    base = model("llama")
    base.module.save_pretrained(folder)
    files = ModelFiles("m", str(folder), None, local=True)
    for _ in range(2):
        assert parity_of(base, files, 64) == Verdict(None, "x")
    assert len(calls) == 1
    (stored,) = (tmp_path / "cache" / "parity").iterdir()
    stored.write_text(json.dumps({"other": 1}))
    parity_of(base, files, 64)
    assert len(calls) == 2
    (folder / "model.safetensors").touch()
    parity_of(base, files, 64)
    assert len(calls) == 3
