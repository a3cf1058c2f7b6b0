"""Checks before and while a base model is loaded; each refusal is one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from megacontext.traces.errors import ModelError

__all__ = [
    "available_bytes",
    "check_memory",
    "check_tokenizer",
    "check_window",
    "find_model",
    "load_config",
    "load_module",
    "load_tokenizer",
    "pick_device",
    "pick_dtype",
    "trained_window",
]

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Vocabularies are padded for the hardware; more than this is another model's tokenizer.
_MAX_PADDING = 1024


def pick_device(device: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ModelError: ``cuda`` without a GPU, or an unknown name.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise ModelError(f"device is '{device}', use auto, cpu or cuda")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device is '{device}' but torch finds no GPU, use device cpu or auto")
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``auto`` is float32 on a CPU and bfloat16 on a GPU."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in _DTYPES:
        raise ModelError(f"dtype is '{dtype}', use auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def find_model(name: str) -> tuple[str, bool]:
    """(what transformers loads, whether it is a local folder).

    Raises:
        ModelError: a path that does not exist, or a folder without ``config.json``.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"model.path '{name}' is no model folder (no config.json in it), give a folder "
                "written by save_pretrained or a hub id"
            )
        return str(path), True
    looks_local = name.startswith((".", "/", "~")) or path.exists()
    if looks_local or not _HUB_ID.fullmatch(name):
        raise ModelError(f"model.path '{name}' does not exist, give a model folder or a hub id")
    return name, False


def load_config(name: str, *, local: bool) -> Any:
    """The model's configuration.

    Raises:
        ModelError: unreadable, unknown architecture, not reachable, or no decoder-only model.
    """
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=local)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(name, local, "configuration", error) from error
    if config.is_encoder_decoder or type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(
            f"model.path '{name}' holds a '{config.model_type}' model, which is no decoder-only "
            "language model, choose one that AutoModelForCausalLM loads"
        )
    return config


def load_tokenizer(name: str, *, local: bool) -> Any:
    """The model's tokenizer.

    Raises:
        ModelError: no tokenizer files.
    """
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=local)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise _unreadable(name, local, "tokenizer", error) from error


def load_module(
    name: str, config: Any, dtype: torch.dtype, device: torch.device, *, local: bool
) -> torch.nn.Module:
    """The model with its weights, on ``device``.

    Raises:
        ModelError: weights missing, incomplete or damaged.
    """
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        module, found = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            local_files_only=local,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise _unreadable(name, local, "weights", error) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"model.path '{name}' lacks {len(missing)} weights, '{missing[0]}' among them, "
            "save the whole model again"
        )
    placed: torch.nn.Module = module.to(device)
    return placed


def _unreadable(name: str, local: bool, what: str, error: BaseException) -> ModelError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    if local:
        return ModelError(f"model.path '{name}': its {what} cannot be read ({first_line})")
    return ModelError(
        f"model.path '{name}' is neither a folder here nor available from the hub (offline or "
        "unknown), download the model and give its folder"
    )


def trained_window(config: Any) -> int:
    """Positions that the model was trained on; the sliding window where layers have one."""
    text = config.get_text_config()
    window = int(getattr(text, "max_position_embeddings", None) or 2048)
    layer_types = getattr(text, "layer_types", None) or []
    sliding = getattr(text, "sliding_window", None)
    slides = "sliding_attention" in layer_types if layer_types else sliding is not None
    return min(window, int(sliding)) if slides and sliding else window


def check_window(name: str, window: int, needed: int | None) -> None:
    """Refuse a model whose trained window cannot hold ``needed`` rows."""
    if needed is not None and needed > window:
        raise ModelError(
            f"w_max is {needed} but model '{name}' was trained on {window} positions, "
            f"set w_max to at most {window} or choose a model with a longer window"
        )


def check_tokenizer(name: str, tokenizer_size: int, vocab_size: int) -> None:
    """Refuse another model's tokenizer."""
    if tokenizer_size > vocab_size or vocab_size - tokenizer_size > _MAX_PADDING:
        raise ModelError(
            f"the tokenizer in model.path '{name}' has {tokenizer_size} tokens but the model has "
            f"{vocab_size}, put the model's own tokenizer into the folder"
        )


def available_bytes(device: torch.device) -> int | None:
    """Free memory of ``device`` in bytes, or None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def check_memory(
    name: str, config: Any, dtype: torch.dtype, device: torch.device, available: int | None
) -> None:
    """Refuse a model whose weights alone do not fit ``available`` bytes."""
    if available is None:
        return
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    parameters = sum(p.numel() for p in skeleton.parameters())
    needed = parameters * dtype.itemsize
    if needed > available:
        smaller = "" if dtype.itemsize == 2 else "dtype bfloat16, "
        raise ModelError(
            f"model '{name}' needs {needed / 2**30:.1f} GiB on {device.type} but "
            f"{available / 2**30:.1f} GiB are free, use {smaller}a smaller model or another device"
        )
