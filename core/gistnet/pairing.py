"""Whether a GistNet was trained with the base model that reads its gists.

A refresh of the base model (a LoRA adapter, or weights trained further) changes how gists are read
and leaves the embeddings that they are made of as they are. Neither the gists nor what they cost a
session on average show it (docs/lab/2026-11-30-stale-gistnet.md), so each part records what it was
trained with: ``config.json`` of a GistNet the ``adapter`` and the ``body`` of its base model,
``megacontext.json`` of an adapter the ``gistnet``. They fit if either of them names the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from megacontext.traces.errors import ModelError

__all__ = [
    "adapter_id",
    "body_fingerprint",
    "pairing_facts",
    "read_pairing",
    "record_gistnet",
    "stale_reason",
]

_ADAPTER_FACTS = "megacontext.json"
_SAMPLED_ROWS = 8


def adapter_id(folder: Path) -> str:
    """``adapter-`` and twelve hex digits over an adapter's weights and scale.

    Raises:
        ModelError: the folder holds no readable adapter.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf8"))
        scale = [config["r"], config["lora_alpha"], bool(config.get("use_rslora"))]
        digest = hashlib.sha256(json.dumps(scale).encode())
        digest.update((folder / "adapter_model.safetensors").read_bytes())
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model.adapter '{folder}' holds no readable LoRA adapter ({error}); give a folder "
            "written by `megacontext train lora` or by peft."
        ) from error
    return f"adapter-{digest.hexdigest()[:12]}"


def body_fingerprint(model: nn.Module) -> str:
    """Eight hex digits that name a causal LM by its weight matrices but for the embeddings.

    At most 8 rows of each matrix are hashed, rounded to bfloat16, so that the same weights give the
    same digits in bfloat16 and float32.
    """
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    digest = hashlib.sha256()
    for _, weight in sorted(model.named_parameters()):
        if weight.ndim == 2 and weight is not embedding:
            step = -(-len(weight) // _SAMPLED_ROWS)
            sample = weight.detach()[::step].to("cpu", torch.bfloat16).float().contiguous()
            digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:8]


def pairing_facts(model: nn.Module, adapter: Path | None) -> dict[str, str]:
    """What a GistNet records of the base model that it is trained with.

    Args:
        model: the causal LM, with ``adapter`` merged where there is one.
    """
    if adapter is not None:
        return {"adapter": adapter_id(adapter)}
    return {"adapter": "", "body": body_fingerprint(model)}


def read_pairing(gistnet: Path) -> dict[str, str]:
    """What the checkpoint in ``gistnet`` recorded by :func:`pairing_facts`."""
    facts = _read(gistnet / "config.json")
    return {name: facts[name] for name in ("adapter", "body") if name in facts}


def record_gistnet(adapter: Path, gistnet: Path) -> None:
    """Write into the facts of an ``adapter`` that it was trained on gists of ``gistnet``."""
    file = adapter / _ADAPTER_FACTS
    facts = _read(file) | {"gistnet": _read(gistnet / "config.json")["checkpoint_id"]}
    partial = adapter / "facts.tmp"
    partial.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf8")
    partial.replace(file)


def stale_reason(gistnet: Path, model: nn.Module, adapter: Path | None) -> str:
    """Why the gists of a checkpoint are stale for a base model; empty if they are not.

    A checkpoint that says nothing of an adapter was trained without one; one that says nothing of
    the other weights is taken to fit them.

    Args:
        gistnet: the folder of a checkpoint that belongs to the embeddings of ``model``.
        model: the causal LM, with ``adapter`` merged where there is one.
    """
    facts = _read(gistnet / "config.json")
    name, trained_with = facts["checkpoint_id"], facts.get("adapter", "")
    if adapter is None:
        return _stale_body(name, trained_with, facts, model)

    adapter_name = adapter_id(adapter)
    its_gistnet = _read(adapter / _ADAPTER_FACTS).get("gistnet", "no GistNet that it names")
    if trained_with == adapter_name or its_gistnet == name:
        return ""
    return (
        f"{name} was trained {f'with {trained_with}' if trained_with else 'without an adapter'} "
        f"and {adapter_name} was trained with {its_gistnet}"
    )


def _stale_body(name: str, trained_with: str, facts: Mapping[str, Any], model: nn.Module) -> str:
    """The same for a base model without an adapter."""
    if trained_with:
        return f"{name} was trained with {trained_with} and the base model has no adapter"
    if facts.get("body") and facts["body"] != (body := body_fingerprint(model)):
        return f"{name} was trained with base weights {facts['body']} and these are {body}"
    return ""


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty where no file is, as beside an adapter of peft."""
    if not file.is_file():
        return {}
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf8"))
    return value
