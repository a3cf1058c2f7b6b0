"""Averages of base models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megacontext.core.gistnet.checkpoint import load_folder, save_folder
from megacontext.core.training.base.weight_average import average, average_bases
from megacontext.traces.errors import ConfigError, ModelError


def _scaled(folder: Path, factor: float, out: Path) -> Path:
    shutil.copytree(folder, out)
    state = load_file(out / "model.safetensors")
    scaled = {name: value * factor for name, value in state.items()}
    save_file(scaled, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v.float() for f in folder.glob("*.safetensors") for k, v in load_file(f).items()}


@pytest.mark.parametrize(("weights", "factor"), [((), 2.0), ((3.0, 1.0), 1.5)])
def test_an_average_lies_between_its_models(
    tiny_base: Path, tmp_path: Path, weights: tuple[float, ...], factor: float
) -> None:
    other = _scaled(tiny_base, 3.0, tmp_path / "other")
    average_bases([tiny_base, other], weights, tmp_path / "out")
    plain, result = _weights(tiny_base), _weights(tmp_path / "out")
    assert set(result) == {name for name in plain if name != "lm_head.weight"}
    for name, value in result.items():
        torch.testing.assert_close(value, plain[name] * factor, rtol=0.01, atol=1e-3)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_what_cannot_be_averaged_is_one_sentence(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 weights do not go with 1 models"):
        average_bases([tiny_base], [], tmp_path / "out")
    with pytest.raises(ConfigError, match="1 weights do not go with 2 models"):
        average_bases([tiny_base, tiny_base], [1.0], tmp_path / "out")
    with pytest.raises(ConfigError, match="no share of some model"):
        average_bases([tiny_base, tiny_base], [1.0, -1.0], tmp_path / "out")
    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(ConfigError, match="average models of one shape"):
        average_bases([tiny_base, other], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _lensnet(folder: Path, value: float, **config: int) -> Path:
    state = {"head": torch.full((3, 2), value)}
    save_folder(folder, "lensnet", state, {"width": 2, **config}, {"gist_checkpoint": "gistnet-1"})
    return folder


def test_lensnets_of_one_gistnet_are_averaged_by_weight(tmp_path: Path) -> None:
    one, other = _lensnet(tmp_path / "one", 1.0), _lensnet(tmp_path / "other", 5.0)
    average([one, other], (3.0, 1.0), tmp_path / "out")
    facts, state = load_folder(tmp_path / "out", "lensnet")
    assert torch.equal(state["head"], torch.full((3, 2), 2.0))
    assert facts["config"] == {"width": 2}
    assert facts["gist_checkpoint"] == "gistnet-1"


def test_lensnets_of_another_shape_and_what_is_no_model_are_one_sentence(tmp_path: Path) -> None:
    one, wide = _lensnet(tmp_path / "one", 1.0), _lensnet(tmp_path / "wide", 1.0, layers=2)
    with pytest.raises(ConfigError, match="average LensNets of one shape and one GistNet"):
        average([one, wide], (), tmp_path / "out")
    with pytest.raises(ConfigError, match="0 weights do not go with 1 models"):
        average([one], (), tmp_path / "out")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    for folder in ("broken", "nowhere"):
        with pytest.raises(ModelError, match=f"{folder}/config.json cannot be read"):
            average([tmp_path / folder, one], (), tmp_path / "out")
    assert not (tmp_path / "out").exists()
