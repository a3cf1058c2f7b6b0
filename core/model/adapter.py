"""LoRA adapters in the format of the ``peft`` library, read and written without it.

An adapter is a folder with ``adapter_config.json`` and ``adapter_model.safetensors``: for each
adapted linear layer W [out, in] two matrices A [r, in] and B [out, r]; the layer computes with
W + scale * B A (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"). Here it is
merged into W when the model is loaded, so decoding costs what it did before. The input embeddings
never change: gists live in their space. A GistNet made for other weights may still be worth less;
the alarm ``stale_gists`` says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from megacontext.core.gistnet.checkpoint import base_fingerprint
from megacontext.traces.errors import ModelError

__all__ = ["Adapter", "merge_adapter", "read_adapter", "write_adapter"]

_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_CONFIG, _WEIGHTS, _FACTS = "adapter_config.json", "adapter_model.safetensors", "megacontext.json"
# Settings of peft under which an adapter is W + scale * B A, and the values under which it is so.
# Some ways to begin (pissa, olora, ...) take A and B out of the base's own weights.
_PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", None),
}
# Settings that say where the matrices are or how they were trained, whatever their value.
_NEUTRAL = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "r",
    "revision",
    "runtime_config",
    "eva_config",
    "target_modules",
    "task_type",
    "use_rslora",
    "qalora_group_size",
}


def _unplain(config: Mapping[str, object]) -> str | None:
    """The first setting under which the adapter is more than W + scale * B A; None if plain.

    A setting that is not known must be off: a later version of peft may mean anything by it.
    """
    for key, value in config.items():
        if key in _PLAIN:
            plain = any(value is allowed or value == allowed for allowed in _PLAIN[key])
            if not plain or (key == "init_lora_weights" and value == 1 and value is not True):
                return key
        elif key not in _NEUTRAL and value not in (None, False, [], {}, ""):
            return key
    return None


@dataclass(frozen=True)
class Adapter:
    """``pairs``: layer name to (A [r, in], B [out, r]); ``scale`` multiplies B A.

    ``base``: fingerprint of the embeddings of the model that it was trained on, empty if unknown.
    """

    name: str
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    scale: float
    base: str = ""


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter that ``megacontext train lora`` or peft wrote.

    Raises:
        ModelError: missing or damaged files, or an adapter of another kind than plain LoRA.
    """
    where = f"model.adapter '{folder}'"
    try:
        config: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf8"))
        weights = load_file(str(folder / _WEIGHTS))
        facts = folder / _FACTS
        base = json.loads(facts.read_text(encoding="utf8"))["base"] if facts.is_file() else ""
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{where} holds no readable LoRA adapter ({error}); give a folder written by "
            "`megacontext train lora` or by peft."
        ) from error

    # Only plain LoRA can be added to the weights.
    key = _unplain(config)
    if key is not None:
        raise ModelError(
            f"{where} has {key} {config[key]!r}, which cannot be merged here; merge it "
            "with peft and give the merged model as model.path."
        )
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Adapter(str(folder), _pairs(weights, where), scale, str(base))


def _pairs(weights: Mapping[str, Tensor], where: str) -> dict[str, tuple[Tensor, Tensor]]:
    downs = [name for name in weights if name.endswith(_DOWN)]
    pairs = {}
    for down in downs:
        up = down.removesuffix(_DOWN) + _UP
        if down.startswith(_PREFIX) and up in weights:
            layer = down.removeprefix(_PREFIX).removesuffix(_DOWN)
            pairs[layer] = (weights[down], weights[up])
    if not pairs or len(weights) != 2 * len(pairs):
        raise ModelError(
            f"{where} holds {len(weights)} tensors that form {len(pairs)} pairs of lora_A and "
            "lora_B; write the adapter again."
        )
    return pairs


@torch.no_grad()
def merge_adapter(module: nn.Module, adapter: Adapter) -> None:
    """Add the adapter to the weights of a causal language model, in place.

    The sum is taken in float32 and rounded to the type of the weights.

    Raises:
        ModelError: the adapter belongs to another model; nothing was changed.
    """
    where = f"model.adapter '{adapter.name}'"
    embedding: Tensor = module.get_input_embeddings().weight  # type: ignore[operator]
    own = base_fingerprint(embedding)
    if adapter.base and adapter.base != own:
        raise ModelError(
            f"{where} was trained on base model {adapter.base} and this one is {own}; train an "
            "adapter for this base model."
        )

    # All pairs are checked before the first weight changes.
    layers = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    for name, (down, up) in adapter.pairs.items():
        layer = layers.get(name)
        if layer is None or layer.weight is embedding:
            raise ModelError(
                f"{where} adapts '{name}', which is no linear layer of this model that may "
                "change; give an adapter of this base model."
            )
        shape = (up.shape[0], down.shape[1])
        if layer.weight.shape != shape or up.shape[1] != down.shape[0]:
            raise ModelError(
                f"{where} adapts '{name}' as {shape} and the model has "
                f"{tuple(layer.weight.shape)} there; give an adapter of this base model."
            )

    # The sum, in float32.
    for name, (down, up) in adapter.pairs.items():
        weight = layers[name].weight
        change = up.to(weight.device, torch.float32) @ down.to(weight.device, torch.float32)
        weight.copy_(weight.float() + adapter.scale * change)


def write_adapter(
    folder: Path,
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    alpha: float,
    *,
    base_path: str,
    embedding: Tensor,
) -> None:
    """Write ``pairs`` of one rank r, scaled by alpha / r, so that peft and we can read them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Tensor] = {}
    for name, (down, up) in pairs.items():
        weights[_PREFIX + name + _DOWN] = down.detach().to("cpu", torch.float32).contiguous()
        weights[_PREFIX + name + _UP] = up.detach().to("cpu", torch.float32).contiguous()

    # The configuration as peft reads it.
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_path,
        "r": next(iter(pairs.values()))[0].shape[0],
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.rpartition(".")[2] for name in pairs}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }

    # Each file is whole or not there.
    partial = folder / "weights.tmp"
    save_file(weights, str(partial), metadata={"format": "pt"})
    partial.replace(folder / _WEIGHTS)
    for name, value in ((_CONFIG, config), (_FACTS, {"base": base_fingerprint(embedding)})):
        partial = folder / "config.tmp"
        partial.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf8")
        partial.replace(folder / name)
