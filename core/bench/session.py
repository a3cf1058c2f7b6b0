"""``megacontext bench session``: what refocusing adds to decoding, with everything on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from megacontext.core.bench.live import live_session, machine_of
from megacontext.core.runtime.hooks import Hooks
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

    The ratio is the time of a block's tokens with their refocus over the same number of tokens
    that close no block, its median over the blocks. All that the closing token, or one that follows
    an edit, takes beyond the others counts as refocusing.

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
        block and its refocus (medians), and on a GPU ``gpu_ms``: what its kernels take of a token
        and of a refocus.
    """
    history = history or 16 * w_max
    clock = _RefocusClock()
    hooks = Hooks(before_refocus=clock.start, after_refocus=clock.stop)
    progress(f"history of {history:,} tokens")
    with live_session(model, [f"w_max={w_max}", *settings], history, hooks=hooks) as live:
        session = live.session
        clock.device = session.parts.base.device
        progress(f"{cycles} blocks of {session.config.block_size} tokens")
        for _ in range(_WARM_BLOCKS):
            _decode_block(session, clock)
        first = session.step + 1
        blocks = [_decode_block(session, clock) for _ in range(cycles)]
        steps = range(first, session.step + 1)
        gpu_ms = _gpu_ms(session, clock) if clock.device.type == "cuda" else None
        machine = machine_of(session)
        refocuses = live.refocuses(steps)

    # Medians over the blocks.
    size = session.config.block_size
    whole = np.array([sum(block.tokens) for block in blocks])
    plain = np.array([float(np.mean(block.plain)) for block in blocks]) * size
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
    return metrics if gpu_ms is None else metrics | {"gpu_ms": gpu_ms}


@dataclass
class _RefocusClock:
    """Adds up the host's time of refocuses between two tokens.

    The device is not waited for: it computes the closing token beside the host's part.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seconds: float = 0.0
    _began: float = 0.0

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._began

    def now(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class _Block:
    """Seconds of all tokens of a block, and of those that neither closed it nor followed an edit
    (with ``focus.lag`` a later token does), refocuses apart."""

    tokens: list[float]
    plain: list[float]


def _decode_block(session: Session, clock: _RefocusClock) -> _Block:
    """Decode up to the end of a block."""
    tokens: list[float] = []
    plain: list[float] = []
    while True:
        follows_edit = session.context.tail_tokens == session.focus_config.lag > 0
        clock.seconds, began = 0.0, clock.now()
        session.decode(1)
        took = clock.now() - began
        tokens.append(took)
        if session.context.tail_tokens == 0:
            return _Block(tokens, plain)
        if not follows_edit:
            plain.append(took - clock.seconds)  # a surprisal may have refocused in between


def _gpu_ms(session: Session, clock: _RefocusClock) -> dict[str, float]:
    """Kernel time of a token that closes no block, and of a refocus: the closing token's rest."""
    size = session.config.block_size
    inside, closing = 0.0, 0.0
    for _ in range(_PROFILED_BLOCKS):
        inside += _kernel_ms(lambda: session.decode(size - 1))
        closing += _kernel_ms(lambda: session.decode(1))
    token = inside / (size - 1) / _PROFILED_BLOCKS
    return {"token": token, "refocus": closing / _PROFILED_BLOCKS - token}


def _kernel_ms(work: Callable[[], object]) -> float:
    """Milliseconds that the GPU's kernels and copies take while ``work`` runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    return float(sum(event.self_device_time_total for event in profile.key_averages())) / 1e3


def _spread(name: str, values: np.ndarray) -> dict[str, Any]:
    low, middle, high = np.percentile(values, [10, 50, 90]).tolist()
    return {name: middle, f"{name}_range": [low, high]}
