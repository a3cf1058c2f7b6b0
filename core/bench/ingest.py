"""``megacontext bench ingest``: how fast a session reads text, and how that grows with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from megacontext.core.bench.live import library_tokens, live_session, machine_of

__all__ = ["bench"]

_PARTS = 8


def bench(
    model: str,
    tokens: int = 65_536,
    w_max: int = 1024,
    chunk: int = 512,
    nll: bool = True,
    settings: Sequence[str] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Read library code into an empty history: tree, gists, keys, lens, allocator, window, trace.

    Args:
        model: as in ``model.path``.
        tokens: length of the text.
        w_max: budget in entries.
        chunk: ``ingest.chunk``; 0 reads block by block.
        nll: ``ingest.nll``; without it the model reads the window once, at the end.
        settings: further config overrides, ``key.path=value``.
        progress: told what is being done.

    Returns:
        ``seconds`` and ``tokens_per_s`` from the first token to a window that can decode, and
        ``cpu_seconds``, which other programs on the machine change less;
        ``by_history``: tokens/s in each eighth of the text; ``growth``: time of a token in the last
        eighth over that in the second; ``host_s``: host time of each stage; on a GPU ``peak_gib``.
    """
    moments: list[tuple[int, float]] = []
    ingest = [f"ingest.chunk={chunk}", f"ingest.nll={str(nll).lower()}"]
    on_refocus = _stamp(moments)
    with live_session(model, [f"w_max={w_max}", *ingest, *settings], progress=on_refocus) as live:
        session = live.session
        base = session.parts.base
        progress(f"{tokens:,} tokens of text")
        text = library_tokens(base.tokenizer, tokens)

        # The first tokens compile and allocate; they are read apart.
        warm = min(len(text) // _PARTS, 4 * max(chunk, session.config.block_size))
        session.append(text[:warm])
        _wait(base.device)
        moments[:] = [(session.context.n_tokens, time.perf_counter())]
        first, cpu_start = session.step + 1, time.process_time()

        progress("reading")
        session.append(text[warm:])
        session.warm_up()  # a window that was not needed yet
        _wait(base.device)
        seconds = time.perf_counter() - moments[0][1]
        cpu_seconds = time.process_time() - cpu_start
        machine = machine_of(session)
        stages = live.refocuses(range(first, session.step + 1))

    rates = _rates(moments)
    metrics = {
        "model": model,
        "w_max": w_max,
        "chunk": chunk,
        "nll": nll,
        **machine,
        "tokens": len(text) - warm,
        "refocuses": len(moments) - 1,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "tokens_per_s": (len(text) - warm) / seconds,
        "by_history": rates,
        "growth": rates[1] / rates[-1],
        "host_s": {name: sum(us) / 1e6 for name, us in stages.items() if name.startswith("us_")},
    }
    if base.device.type == "cuda":
        metrics["peak_gib"] = torch.cuda.max_memory_allocated(base.device) / 2**30
    return metrics


def _stamp(moments: list[tuple[int, float]]) -> Callable[[int], None]:
    """Notes when the history reached a length."""
    return lambda n_tokens: moments.append((n_tokens, time.perf_counter()))


def _rates(moments: list[tuple[int, float]]) -> list[float]:
    """Tokens/s in each eighth of the history between the first moment and the last."""
    lengths, times = np.array(moments).T
    edges = np.linspace(lengths[0], lengths[-1], _PARTS + 1)
    rates: list[float] = (np.diff(edges) / np.diff(np.interp(edges, lengths, times))).tolist()
    return rates


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
