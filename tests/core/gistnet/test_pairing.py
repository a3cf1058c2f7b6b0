"""GistNet and adapter record what they were trained with, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from megacontext.core.gistnet.gister import save_gistnet
from megacontext.core.gistnet.keys import KeyConfig
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.gistnet.pairing import (
    adapter_id,
    body_fingerprint,
    pairing_facts,
    read_pairing,
    record_gistnet,
    stale_reason,
)
from megacontext.core.model.adapter import read_adapter, write_adapter
from megacontext.traces.errors import ModelError

DIM = 32
KEYS = KeyConfig(width=16, layers=1, heads=2, ffn=24, context_dim=8, lexical_dim=8)


class Model(nn.Module):
    """As much of a causal LM as is compared: embeddings, a layer, a norm."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.embed = nn.Embedding(40, DIM)
        self.layer = nn.Linear(DIM, DIM, bias=False)
        self.norm = nn.LayerNorm(DIM)
        self.layer.weight.data = torch.randn((DIM, DIM), generator=draw)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed


@pytest.fixture
def model() -> Model:
    return Model()


def save_net(folder: Path, model: Model, adapter: Path | None = None, seed: int = 0) -> str:
    net = GistNet(GistNetConfig(DIM, DIM, 8, 1, 2, 1, 48, gist_rms=0.02, keys=KEYS))
    net.init_weights(seed)
    return save_gistnet(net, folder, model.embed.weight, pairing_facts(model, adapter))


def save_adapter(folder: Path, model: Model, value: float = 1.0, alpha: float = 2.0) -> Path:
    pair = (torch.full((1, DIM), value), torch.ones(DIM, 1))
    table = model.embed.weight
    write_adapter(folder, {"layer": pair}, alpha, base_path="base", embedding=table)
    return folder


def test_the_same_parts_fit(model: Model, tmp_path: Path) -> None:
    save_net(tmp_path / "g", model)
    assert stale_reason(tmp_path / "g", model, None) == ""
    assert stale_reason(tmp_path / "g", Model(0).bfloat16(), None) == ""


def test_weights_that_were_trained_further_are_named(model: Model, tmp_path: Path) -> None:
    name = save_net(tmp_path / "g", model)
    reason = stale_reason(tmp_path / "g", Model(1), None)
    assert reason.startswith(f"{name} was trained with base weights {body_fingerprint(model)} ")
    assert body_fingerprint(Model(1)) in reason


def test_embeddings_and_norms_are_no_part_of_the_body(model: Model) -> None:
    before = body_fingerprint(model)
    with torch.no_grad():
        model.embed.weight += 1
        model.norm.weight += 1
    assert body_fingerprint(model) == before


def test_an_adapter_that_came_after_the_gistnet_makes_its_gists_stale(
    model: Model, tmp_path: Path
) -> None:
    name = save_net(tmp_path / "g", model)
    adapter = save_adapter(tmp_path / "a", model)
    reason = stale_reason(tmp_path / "g", model, adapter)
    assert reason.startswith(f"{name} was trained without an adapter and {adapter_id(adapter)} ")


def test_an_adapter_trained_on_these_gists_fits_them_and_no_others(
    model: Model, tmp_path: Path
) -> None:
    save_net(tmp_path / "g", model)
    other = save_net(tmp_path / "other", model, seed=1)
    adapter = save_adapter(tmp_path / "a", model)
    record_gistnet(adapter, tmp_path / "g")
    assert stale_reason(tmp_path / "g", model, adapter) == ""
    assert stale_reason(tmp_path / "other", model, adapter).startswith(f"{other} was trained ")
    assert read_adapter(adapter).base  # what was recorded before is still there


def test_a_gistnet_trained_with_an_adapter_fits_that_adapter_alone(
    model: Model, tmp_path: Path
) -> None:
    adapter = save_adapter(tmp_path / "a", model)
    name = save_net(tmp_path / "g", model, adapter)
    assert stale_reason(tmp_path / "g", model, adapter) == ""
    retrained = save_adapter(tmp_path / "b", model, value=2.0)
    assert f"with {adapter_id(adapter)} and {adapter_id(retrained)} was" in stale_reason(
        tmp_path / "g", model, retrained
    )
    assert stale_reason(tmp_path / "g", model, None) == (
        f"{name} was trained with {adapter_id(adapter)} and the base model has no adapter"
    )


def test_an_adapter_is_its_weights_and_its_scale(model: Model, tmp_path: Path) -> None:
    ids = {
        adapter_id(save_adapter(tmp_path / "a", model)),
        adapter_id(save_adapter(tmp_path / "b", model, value=2.0)),
        adapter_id(save_adapter(tmp_path / "c", model, alpha=4.0)),
    }
    assert len(ids) == 3
    assert adapter_id(save_adapter(tmp_path / "d", model)) in ids
    with pytest.raises(ModelError, match="holds no readable LoRA adapter"):
        adapter_id(tmp_path)


def test_a_checkpoint_from_before_the_record_fits_any_weights_and_no_adapter(
    model: Model, tmp_path: Path
) -> None:
    save_net(tmp_path / "g", model)
    file = tmp_path / "g" / "config.json"
    facts = json.loads(file.read_text())
    for key in read_pairing(tmp_path / "g"):
        del facts[key]
    file.write_text(json.dumps(facts))
    assert read_pairing(tmp_path / "g") == {}
    assert stale_reason(tmp_path / "g", Model(1), None) == ""
    assert stale_reason(tmp_path / "g", model, save_adapter(tmp_path / "a", model))
