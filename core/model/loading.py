"""Checks before and while a base model is loaded; each refusal is one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from megacontext.core.model.files import ModelFiles
from megacontext.core.model.local import WindowBound
from megacontext.traces.errors import ModelError

__all__ = [
    "available_bytes",
    "check_memory",
    "check_tokenizer",
    "check_window",
    "end_ids",
    "load_config",
    "load_module",
    "load_tokenizer",
    "pick_device",
    "pick_dtype",
    "text_tokens",
]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_COMPUTED = ("inv_freq", ".attn.bias", ".attn.masked_bias", "position_ids", ".attention.bias")
_UNSUPPORTED_GGUF = re.compile(r"architecture '?([\w.-]+)'? (?:is )?not (?:yet )?supported")
# Vocabularies are padded for the hardware; more than this is another model's tokenizer.
_MAX_PADDING = 1024
# Some models keep a fraction of their rows for tokens to come.
_MAX_REMAINING = 1 / 4


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


def load_config(files: ModelFiles) -> Any:
    """The model's configuration.

    Raises:
        ModelError: unreadable, unknown architecture, not reachable, or no decoder-only model.
    """
    with _readable(files, "configuration"):
        config = AutoConfig.from_pretrained(files.source, **files.arguments())
    if config.is_encoder_decoder or type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(
            f"model.path '{files.name}' holds a '{config.model_type}' model, which is no "
            "decoder-only language model, choose one that AutoModelForCausalLM loads"
        )
    return config


def load_tokenizer(files: ModelFiles) -> Any:
    """The model's tokenizer.

    Raises:
        ModelError: no tokenizer files.
    """
    with _readable(files, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(files.source, **files.arguments())
        stated = Path(files.source) / "tokenizer_config.json"
        if files.local and not files.gguf and stated.is_file():
            # Some tokenizer classes of transformers pass over this setting.
            config = json.loads(stated.read_text(encoding="utf8"))
            tokenizer.init_kwargs["add_bos_token"] = bool(config.get("add_bos_token"))
    return tokenizer


def load_module(
    files: ModelFiles, config: Any, dtype: torch.dtype, device: torch.device
) -> torch.nn.Module:
    """The model with its weights, on ``device``; those of a GGUF file dequantized.

    Raises:
        ModelError: weights missing, incomplete or damaged.
    """
    arguments = files.arguments()
    # Later versions of transformers keep GGUF weights quantized unless told otherwise.
    gguf_config = getattr(transformers, "GgufConfig", None)
    if files.gguf and gguf_config is not None:
        arguments["quantization_config"] = gguf_config(dequantize=True)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with _readable(files, "weights"), _no_other_bars():
            module, found = AutoModelForCausalLM.from_pretrained(
                files.source,
                config=config,
                dtype=dtype,
                attn_implementation=attention_kind(config),
                output_loading_info=True,
                **arguments,
            )
    finally:
        if bars:
            logging.enable_progress_bar()
    _check_keys(files.name, module, found)
    placed: torch.nn.Module = module.to(device)
    return placed


def attention_kind(config: Any) -> str:
    """``sdpa``, or ``eager`` for a model without it."""
    kind = AutoModelForCausalLM._model_mapping[type(config)]
    kind = kind[0] if isinstance(kind, tuple) else kind
    return "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"


def _check_keys(name: str, module: Any, found: dict[str, Any]) -> None:
    """Refuse weights that are missing, have no place in the model, or another shape."""
    missing, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    # Buffers of older versions, which this one computes, are no weights.
    unexpected = [key for key in unexpected if not key.endswith(_COMPUTED)]
    if missing:
        raise ModelError(
            f"model.path '{name}' lacks {len(missing)} weights, '{missing[0]}' among them, "
            "save the whole model again"
        )
    if unexpected:
        raise ModelError(
            f"model.path '{name}' holds {len(unexpected)} weights that a "
            f"{type(module).__name__} does not use, '{unexpected[0]}' among them, correct "
            "model_type in config.json"
        )


@contextmanager
def _readable(files: ModelFiles, what: str) -> Iterator[None]:
    """Turns what the libraries raise for unreadable files into one sentence."""
    try:
        yield
    except Exception as error:  # each of the libraries has its own, down to bare ones
        raise _unreadable(files, what, error) from error


def _unreadable(files: ModelFiles, what: str, error: BaseException) -> ModelError:
    text = " ".join(str(error).split()) or repr(error)
    first = text if len(text) <= 200 else text[:197] + "..."
    where = f"model.path '{files.name}'"

    # A GGUF file is of a kind that transformers cannot read, or damaged.
    if files.gguf:
        kind = _UNSUPPORTED_GGUF.search(text)
        if kind is not None:
            return ModelError(
                f"{where} is a GGUF file of kind '{kind[1]}', which transformers "
                f"{transformers.__version__} does not read; give the model's folder or hub id"
            )
        return ModelError(
            f"{where}: its {what} cannot be read from the GGUF file ({first}); "
            "download or convert it again"
        )

    # A folder, or a name that is neither here nor on the hub.
    if files.local:
        return ModelError(f"{where}: its {what} cannot be read ({first}); check its files")
    return ModelError(
        f"{where} is neither a folder here nor available from the hub (offline or "
        "unknown), download the model and give its folder"
    )


@contextmanager
def _no_other_bars() -> Iterator[None]:
    """Keeps transformers' GGUF reader, which draws a bar whatever its setting, from doing so."""
    from transformers import modeling_gguf_pytorch_utils as reader

    before = vars(reader).get("tqdm")
    if before is None:  # a version that draws none
        yield
        return
    reader.tqdm = partial(before, disable=True)
    try:
        yield
    finally:
        reader.tqdm = before


def check_window(name: str, bound: WindowBound, needed: int | None) -> None:
    """Refuse a model whose window cannot hold ``needed`` rows."""
    if needed is not None and needed > bound.rows:
        raise ModelError(
            f"w_max is {needed} but model '{name}' {bound.why}, set w_max to at most {bound.rows} "
            "or choose a model with a longer window"
        )


def end_ids(module: Any) -> list[int]:
    """The tokens that end a text by the model's configuration and generation configuration."""
    found: list[int] = []
    for config in (module.config.get_text_config(), getattr(module, "generation_config", None)):
        value = getattr(config, "eos_token_id", None)
        found += value if isinstance(value, list) else [] if value is None else [value]
    return sorted({int(token) for token in found})


def check_tokenizer(name: str, tokenizer_size: int, vocab_size: int) -> None:
    """Refuse another model's tokenizer; spare rows of the model are no reason."""
    remaining = max(_MAX_PADDING, int(vocab_size * _MAX_REMAINING))
    if tokenizer_size > vocab_size or vocab_size - tokenizer_size > remaining:
        raise ModelError(
            f"the tokenizer in model.path '{name}' has {tokenizer_size} tokens but the model has "
            f"{vocab_size}, put the model's own tokenizer into the folder"
        )


def text_tokens(tokenizer: Any) -> int:
    """Size of a tokenizer without special entries at its end, such as an image's mark.

    Text never makes those, so they need no row in the model.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    size = max(tokenizer.get_vocab().values(), default=-1) + 1
    while size - 1 in special:
        size -= 1
    return size


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
    files: ModelFiles, config: Any, dtype: torch.dtype, device: torch.device, available: int | None
) -> None:
    """Refuse a model whose weights alone do not fit ``available`` bytes."""
    if available is None:
        return
    with _readable(files, "configuration"), torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    parameters = sum(p.numel() for p in skeleton.parameters())
    needed = parameters * dtype.itemsize
    if needed > available:
        smaller = "" if dtype.itemsize == 2 else "dtype bfloat16, "
        raise ModelError(
            f"model '{files.name}' needs {needed / 2**30:.1f} GiB on {device.type} but "
            f"{available / 2**30:.1f} GiB are free, use {smaller}a smaller model or another device"
        )
