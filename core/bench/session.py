"""``megacontext bench session``: what refocusing adds to decoding, with everything on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from megacontext.core.bench.live import live_session, machine_of
from megacontext.core.runtime.session import Session

__all__ = ["bench"]

_WARM_BLOCKS = 2
_PROFILED_BLOCKS = 2


def bench(
    model: str,
    w_max: int = 1024,
    history: int = 0,
    cycles: int = 16,
    settings: Sequence[str] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Decode ``cycles`` blocks behind a long text, with a refocus after each.

    Tokens are decoded without a stop and timed as their text arrives. The ratio is the time of a
    block, from the last token of the block before to its own, over that of as many tokens of its
    second half, which neither close a block nor follow an edit; its median over the blocks.

    Args:
        model: as in ``model.path``.
        w_max: budget in entries.
        history: tokens of library code before the first decoded one; 0: 16 times ``w_max``.
        cycles: measured blocks.
        settings: further config overrides, ``key.path=value``.
        progress: told what is being done.

    Returns:
        ``ratio``, ``token_ms``, ``refocus_ms`` (medians; ``*_range``: 10th and 90th percentile),
        ``actions`` and ``kv_rows`` of a refocus (means), ``host_us``: host time of each stage of a
        block and its refocus (medians). On a GPU ``gpu_ms``: how long it is busy with a token and
        with a refocus; on a CPU ``cpu_ratio``: the ratio in CPU seconds, which other programs on
        the machine change less.
    """
    history = history or 16 * w_max
    progress(f"history of {history:,} tokens")
    with live_session(model, [f"w_max={w_max}", *settings], history) as live:
        session = live.session
        size = session.config.block_size
        progress(f"{cycles} blocks of {size} tokens")
        _arrivals(session, _WARM_BLOCKS * size)
        first = session.step + 1
        arrivals = _arrivals(session, (1 + cycles) * size)
        steps = range(first + 1, session.step + 1)
        gpu_ms = _gpu_ms(session) if session.parts.base.device.type == "cuda" else None
        machine = machine_of(session)
        refocuses = live.refocuses(steps)

    # A row for each block but the first: seconds between the arrivals of its tokens.
    first_plain = _first_plain(size, session.focus_config.lag)
    between = np.diff(arrivals[:, size - 1 :]).reshape(2, cycles, size)
    whole, cpu_whole = between.sum(axis=2)
    plain, cpu_plain = between[:, :, first_plain:].mean(axis=2) * size

    # Medians over the blocks.
    metrics = {
        "model": model,
        "w_max": w_max,
        "history": history,
        "lag": session.focus_config.lag,
        "blocks": cycles,
        **machine,
        **_spread("ratio", whole / plain),
        **_spread("token_ms", plain / size * 1e3),
        **_spread("refocus_ms", (whole - plain) * 1e3),
        "actions": float(np.mean(refocuses.pop("actions"))),
        "kv_rows": float(np.mean(refocuses.pop("kv_rows"))),
        "host_us": {name: float(np.median(us)) for name, us in refocuses.items()},
    }
    if gpu_ms is not None:
        return metrics | {"gpu_ms": gpu_ms}
    return metrics | _spread("cpu_ratio", cpu_whole / cpu_plain)


def _arrivals(session: Session, count: int) -> np.ndarray:
    """Decode ``count`` tokens; when their text was there, float64 [2, count]: seconds, and CPU
    seconds of this process."""
    times: list[tuple[float, float]] = []

    def note(text: str, nll: float) -> None:
        times.append((time.perf_counter(), time.process_time()))

    while len(times) < count:  # an end-of-text token ends a call
        session.decode(count - len(times), on_token=note)
    return np.array(times).T


def _first_plain(size: int, lag: int) -> int:
    """From which token of a block on no edit is felt: the host has caught up with the device."""
    return min(max(size // 2, lag + size // 4), size - 2)


def _gpu_ms(session: Session) -> dict[str, float]:
    """How long the GPU is busy with a token that closes no block, and with a refocus."""
    size, token, block = session.config.block_size, 0.0, 0.0
    for _ in range(_PROFILED_BLOCKS):
        plain = size // 2 - 1
        session.decode(size - plain - 1)
        token += _busy_ms(partial(session.decode, plain)) / plain / _PROFILED_BLOCKS
        session.decode(1)
        block += _busy_ms(partial(session.decode, size)) / _PROFILED_BLOCKS
    return {"token": token, "refocus": block - size * token}


def _busy_ms(work: Callable[[], object]) -> float:
    """Milliseconds in which at least one kernel or copy runs during ``work``.

    Kernels overlap where the next one starts early, so their own times would add up to more.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type.name == "CUDA"
    )
    busy, until = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 1e3


def _spread(name: str, values: np.ndarray) -> dict[str, Any]:
    low, middle, high = np.percentile(values, [10, 50, 90]).tolist()
    return {name: middle, f"{name}_range": [low, high]}
