"""LoRA adapters: merged as peft would, refused where they cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megacontext.core.model.adapter import read_adapter, write_adapter
from megacontext.core.model.base import BaseModel
from megacontext.traces.errors import ModelError

LAYER = "model.layers.1.self_attn.q_proj"


@pytest.fixture
def adapter(model_folder: Path, tmp_path: Path) -> Path:
    """Rank 2 on one layer of the tiny model, alpha 6: a scale of 3."""
    base = BaseModel.load(str(model_folder), device="cpu")
    source = torch.Generator().manual_seed(1)
    pair = tuple(torch.randn(shape, generator=source) for shape in ((2, 32), (32, 2)))
    folder = tmp_path / "adapter"
    write_adapter(
        folder,
        {LAYER: (pair[0], pair[1])},
        6.0,
        base_path=str(model_folder),
        embedding=base.embedding_matrix,
    )
    return folder


def _edit(folder: Path, **change: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def test_merged_weight_is_the_base_plus_the_scaled_product(
    model_folder: Path, adapter: Path
) -> None:
    plain = BaseModel.load(str(model_folder), device="cpu").module.get_submodule(LAYER).weight
    merged = BaseModel.load(str(model_folder), device="cpu", adapter=str(adapter))
    (down, up) = read_adapter(adapter).pairs[LAYER]
    torch.testing.assert_close(
        merged.module.get_submodule(LAYER).weight, plain + 3 * up @ down, atol=1e-5, rtol=1e-5
    )
    other = "model.layers.0.self_attn.q_proj"
    untouched = BaseModel.load(str(model_folder), device="cpu").module.get_submodule(other).weight
    assert torch.equal(merged.module.get_submodule(other).weight, untouched)


def test_rank_stabilized_scale_is_alpha_over_the_root_of_the_rank(adapter: Path) -> None:
    _edit(adapter, use_rslora=True)
    assert read_adapter(adapter).scale == pytest.approx(6 / 2**0.5)


def test_logits_are_those_of_peft(model_folder: Path, adapter: Path) -> None:
    peft = pytest.importorskip("peft")
    tokens = torch.arange(1, 40)[None]
    ours = BaseModel.load(str(model_folder), device="cpu", adapter=str(adapter)).module
    plain = BaseModel.load(str(model_folder), device="cpu").module
    with torch.no_grad():
        before = plain(tokens).logits
        theirs = peft.PeftModel.from_pretrained(plain, str(adapter))(tokens).logits
        torch.testing.assert_close(ours(tokens).logits, theirs, atol=1e-4, rtol=1e-4)
    assert float((before - theirs).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "has use_dora True, which cannot be merged"),
        ({"bias": "all"}, "has bias 'all', which cannot be merged"),
        ({"peft_type": "IA3"}, "has peft_type 'IA3'"),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save"),
        ({"r": "many"}, "holds no readable LoRA adapter"),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights 'pissa'"),
        ({"init_lora_weights": "pissa_niter_16"}, "has init_lora_weights 'pissa_niter_16'"),
        ({"init_lora_weights": "olora"}, "has init_lora_weights 'olora'"),
        ({"alora_invocation_tokens": [5, 7]}, r"has alora_invocation_tokens \[5, 7\]"),
        ({"a_setting_of_next_year": True}, "has a_setting_of_next_year True"),
    ],
)
def test_adapters_that_are_not_plain_lora_are_refused(
    adapter: Path, change: dict[str, object], message: str
) -> None:
    _edit(adapter, **change)
    with pytest.raises(ModelError, match=message):
        read_adapter(adapter)


def test_settings_that_change_nothing_are_taken(adapter: Path) -> None:
    before = read_adapter(adapter)
    _edit(
        adapter,
        init_lora_weights="gaussian",
        lora_bias=False,
        loftq_config={},
        trainable_token_indices=None,
        revision="main",
    )
    assert read_adapter(adapter).pairs.keys() == before.pairs.keys()


def test_missing_and_torn_adapters_are_refused_with_their_path(
    adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"model\.adapter '.*none' holds no readable"):
        read_adapter(tmp_path / "none")
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({n: v for n, v in weights.items() if "lora_A" in n}, file)
    with pytest.raises(ModelError, match="1 tensors that form 0 pairs"):
        read_adapter(adapter)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ModelError, match="holds no readable"):
        read_adapter(adapter)


def test_an_adapter_of_another_model_is_refused(
    model_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    facts = adapter / "megacontext.json"
    facts.write_text(json.dumps({"base": "0123abcd"}))
    with pytest.raises(ModelError, match="was trained on base model 0123abcd"):
        BaseModel.load(str(model_folder), device="cpu", adapter=str(adapter))
    facts.unlink()
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    wide = shutil.copytree(adapter, tmp_path / "wide")
    save_file(
        {n: v.repeat(2, 1) if "lora_B" in n else v for n, v in weights.items()},
        wide / "adapter_model.safetensors",
    )
    with pytest.raises(ModelError, match=r"as \(64, 32\) and the model has \(32, 32\)"):
        BaseModel.load(str(model_folder), device="cpu", adapter=str(wide))
    save_file({n.replace("layers.1", "layers.9"): v for n, v in weights.items()}, file)
    with pytest.raises(ModelError, match=r"layers\.9\.self_attn\.q_proj', which is no linear"):
        BaseModel.load(str(model_folder), device="cpu", adapter=str(adapter))


def test_a_tied_head_may_not_change(model_folder: Path, adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    head = {n.replace(LAYER, "lm_head"): v for n, v in weights.items()}
    save_file(head, file)
    with pytest.raises(ModelError, match="'lm_head', which is no linear layer"):
        BaseModel.load(str(model_folder), device="cpu", adapter=str(adapter))
