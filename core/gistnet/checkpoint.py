"""Checkpoints of learned parts: ``config.json`` and ``model.safetensors`` in one folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from megacontext.traces.errors import ModelError

__all__ = ["base_fingerprint", "load_folder", "save_folder", "weights_id"]

_FORMAT = 1


def base_fingerprint(embedding: Tensor) -> str:
    """Eight hex digits that name a base model by its input embeddings [vocab, dim].

    At most 4,096 rows spread over the vocabulary are hashed, rounded to bfloat16, so that the same
    weights give the same digits in bfloat16 and float32, whichever they are saved in, and a large
    vocabulary costs no second.
    """
    rows, dim = embedding.shape
    step = -(-rows // 4096)
    sample = embedding.detach()[::step].to("cpu", torch.bfloat16).float().contiguous()
    digest = hashlib.sha256(f"{rows}x{dim}".encode())
    digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:8]


def weights_id(kind: str, state: Mapping[str, Tensor], config: Mapping[str, object]) -> str:
    """``kind-`` and twelve hex digits over config and weights as they are saved (bfloat16)."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(state):
        digest.update(name.encode())
        value = state[name].detach().to("cpu", torch.bfloat16).float().contiguous()
        digest.update(value.numpy().tobytes())
    return f"{kind}-{digest.hexdigest()[:12]}"


def save_folder(
    folder: Path,
    kind: str,
    state: Mapping[str, Tensor],
    config: Mapping[str, object],
    facts: Mapping[str, object],
) -> str:
    """Write weights (bfloat16) and config; returns the checkpoint id.

    Args:
        config: what rebuilds the module.
        facts: what the module belongs to: the base's fingerprint, ids of other checkpoints.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = weights_id(kind, state, config)
    half = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in state.items()}
    partial = folder / "model.safetensors.tmp"
    save_file(half, str(partial), metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")
    meta = {"format": _FORMAT, "kind": kind, "checkpoint_id": name, "config": dict(config)}
    text = json.dumps({**meta, **facts}, indent=1, sort_keys=True) + "\n"
    partial = folder / "config.json.tmp"
    partial.write_text(text, encoding="utf8")
    partial.replace(folder / "config.json")
    return name


def load_folder(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(everything in ``config.json``, weights in float32).

    Raises:
        ModelError: missing, damaged, or a checkpoint of another kind or version.
    """
    file = folder / "config.json"
    try:
        meta: dict[str, Any] = json.loads(file.read_text(encoding="utf8"))
        weights = load_file(str(folder / "model.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{kind}.path '{folder}' holds no readable {kind} checkpoint ({error}); give a folder"
            f" written by `megacontext train {kind}`."
        ) from error

    if meta.get("kind") != kind or meta.get("format") != _FORMAT:
        raise ModelError(
            f"{kind}.path '{folder}' holds a {meta.get('kind')!r} checkpoint of format"
            f" {meta.get('format')!r}; give a {kind} checkpoint of format {_FORMAT}."
        )

    # The id is a hash of the weights: a folder that was half copied is seen.
    state = {name: value.float() for name, value in weights.items()}
    if weights_id(kind, state, meta["config"]) != meta["checkpoint_id"]:
        raise ModelError(
            f"{kind}.path '{folder}': the weights are not those of checkpoint"
            f" {meta['checkpoint_id']}; copy the folder again."
        )
    return meta, state
