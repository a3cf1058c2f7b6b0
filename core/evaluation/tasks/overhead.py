"""What refocusing adds to decoding: a session decodes with refocuses, its own time apart."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from megacontext.core.config import Config
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.evaluation.tasks.corpora import library_texts
from megacontext.core.evaluation.tasks.intervals import Interval, bootstrap
from megacontext.core.runtime.hooks import Hooks
from megacontext.core.runtime.session import Session
from megacontext.core.runtime.sinks import NullSink
from megacontext.traces.schema import Trigger

__all__ = ["Overhead", "overhead_of"]

_WARM = 2
_TIMES = 16


@dataclass(frozen=True)
class Overhead:
    """Time per token with refocusing over that without, in the same window.

    ``ratio`` is the median over cycles of one block each, with its interval; ``token_ms`` the
    median time of a decoded token, ``refocus_ms`` of a refocus with its block's gist. The token
    that closes a block is none to measure by: on a second core its gist is made beside it. Nor is
    the one with which an edit that waited is computed (``focus.lag``). All that these tokens take
    beyond the others counts as refocusing.
    """

    cycles: int
    ratio: float
    interval: Interval | None
    token_ms: float
    refocus_ms: float


class _Stopwatch:
    """Adds up the time that a session spends on refocusing: lens, allocator, window."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = 0.0
        self.seconds = 0.0

    def start(self) -> None:
        self._started = _now(self._device)

    def stop(self) -> None:
        self.seconds += _now(self._device) - self._started


def overhead_of(config: Config, cycles: int) -> Overhead:
    """Decode ``cycles`` blocks behind library code of 16 * w_max tokens, and time them."""
    workspace = EvalWorkspace.load(config)
    (code, *_) = library_texts()
    size, length = config.block_size, _TIMES * config.w_max
    tokens = workspace.base.tokenizer.encode_history(code.text[: 8 * length])[:length]
    whole_blocks = workspace.history_of(tokens[: len(tokens) // size * size])
    # Greedy text repeats itself: remembered gists would cost nothing.
    history = replace(whole_blocks, gister=workspace.gister)
    parts = workspace.assemble(
        workspace.config, history, len(history.tokens), workspace.clone_lens(history)
    )
    context = parts.focus.working_context
    sink, watch = NullSink(), _Stopwatch(workspace.base.device)
    hooks = Hooks(before_refocus=watch.start, after_refocus=watch.stop)
    session = Session(parts, sink, hooks=hooks)
    session.warm_up()
    session.refocus(Trigger.MANUAL)
    whole, plain = [], []
    for _ in range(_WARM + cycles):
        start, others = _now(workspace.base.device), []
        closed = False
        while not closed:
            watch.seconds, gists = 0.0, sink.timings.gist
            follows_edit = context.tail_tokens == config.focus.lag > 0
            started = _now(workspace.base.device)
            session.decode(1)
            elapsed = _now(workspace.base.device) - started
            closed = context.tail_tokens == 0
            if not closed and not follows_edit:
                others.append(elapsed - watch.seconds - (sink.timings.gist - gists) / 1e6)
        whole.append(_now(workspace.base.device) - start)
        plain.append(float(np.mean(others)) * size)
    total, decoding = np.array(whole[_WARM:]), np.array(plain[_WARM:])
    ratios = total / decoding

    def middle(choice: np.ndarray) -> float:
        return float(np.median(ratios[choice]))

    every = np.arange(cycles)
    return Overhead(
        cycles,
        middle(every),
        bootstrap(middle, cycles, config.seed, "overhead"),
        float(np.median(decoding)) / size * 1e3,
        float(np.median(total - decoding)) * 1e3,
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
