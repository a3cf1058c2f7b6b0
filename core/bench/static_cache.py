"""``megacontext bench static``: the model's own window, decoded without a session to compare with.

A static cache as long as the window and one compiled decode step (``torch.compile``, on a GPU with
mode ``reduce-overhead``), in transformers' own code: no history, no focus, no trace. What a
session's token costs beside it is the price of everything else, or the gain of the product's own
kernels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StaticCache

from megacontext.core.config.schema import Config, ModelConfig
from megacontext.core.rng import generator
from megacontext.core.runtime.build import load_base
from megacontext.traces.errors import ConfigError

__all__ = ["bench"]

_WARM_TOKENS = 8
_CHUNK = 512
"""Rows of one forward while the window is filled."""


@torch.inference_mode()
def bench(
    model: str,
    w_max: int = 1024,
    tokens: int = 128,
    compiled: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Greedy decoding behind a full window of random tokens.

    Args:
        model: as in ``model.path``.
        w_max: entries of the window; the last ``tokens`` of them are decoded.
        tokens: measured.
        compiled: ``torch.compile`` the decode step; otherwise it runs eagerly.

    Returns:
        ``token_ms``: median; ``token_ms_range``: 10th and 90th percentile.

    Raises:
        ConfigError: the window has no room for ``tokens``.
    """
    before = w_max - tokens - _WARM_TOKENS
    if before < 1:
        raise ConfigError(
            f"--tokens {tokens} leaves nothing before it in a window of {w_max}; take at most "
            f"{w_max - _WARM_TOKENS - 1}."
        )
    base = load_base(Config(model=ModelConfig(path=model)))
    module, device = base.module, base.device
    cache = StaticCache(config=module.config, max_cache_len=w_max)

    # Fill the window but for the tokens that are decoded.
    progress(f"window of {w_max:,} entries")
    text = generator(0, "bench-static").integers(0, 500, before)
    ids = torch.from_numpy(text.astype(np.int64)).to(device)
    for start in range(0, before, _CHUNK):
        rows = torch.arange(start, min(before, start + _CHUNK), device=device)
        logits = _forward(module, ids[None, start : start + _CHUNK], rows, cache)

    def decode(token: Tensor, position: Tensor) -> Tensor:
        return _forward(module, token, position, cache).argmax(-1, keepdim=True)

    step = torch.compile(decode, mode="reduce-overhead" if device.type == "cuda" else "default")
    step = step if compiled else decode

    # One token after the other; the first compile.
    progress("compiling" if compiled else "decoding")
    token = logits.argmax(-1, keepdim=True)
    seconds = []
    for number in range(_WARM_TOKENS + tokens):
        position = torch.tensor([before + number], device=device)
        start_time = time.perf_counter()
        token = step(token, position).clone()
        int(token)
        seconds.append(time.perf_counter() - start_time)
    measured = np.array(seconds[_WARM_TOKENS:]) * 1e3
    return {
        "model": model,
        "w_max": w_max,
        "tokens": tokens,
        "compiled": compiled,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "dtype": str(base.dtype).removeprefix("torch."),
        "token_ms": round(float(np.median(measured)), 4),
        "token_ms_range": [round(float(v), 4) for v in np.percentile(measured, [10, 90])],
    }


def _forward(module: Any, ids: Tensor, rows: Tensor, cache: StaticCache) -> Tensor:
    """Logits [1, vocab] behind the last of ``ids`` [1, n] at positions ``rows`` [n]."""
    output = module(
        input_ids=ids,
        position_ids=rows[None],
        cache_position=rows,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits[:, -1]
    return logits
