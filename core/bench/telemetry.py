"""``megacontext bench telemetry``: decode speed with all sinks on against none, in one process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from typing import Any

import numpy as np

from megacontext.core.bench.live import library_tokens, live_session, machine_of
from megacontext.core.runtime.session import Session
from megacontext.traces.errors import ConfigError

__all__ = ["bench", "installed_sinks"]

_LIBRARIES = {
    "prometheus": (),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter"),
}
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def installed_sinks() -> list[str]:
    """Sinks whose libraries are there."""
    return [name for name, needed in _LIBRARIES.items() if all(_is_installed(n) for n in needed)]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def bench(
    model: str,
    w_max: int = 1024,
    sinks: Sequence[str] = (),
    pairs: int = 8,
    blocks: int = 4,
    settings: Sequence[str] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Decode with two sessions in turn, one of which writes to ``sinks``.

    Both have the same text, seed and settings, so they decode the same tokens. Whatever else the
    machine does falls on both.

    Args:
        model: as in ``model.path``.
        w_max: budget in entries; the text before the first decoded token is four times as long.
        sinks: names; none: all that are installed. OTLP goes to a receiver in this process.
        pairs: slices of either session, in turn.
        blocks: of a slice, each with a refocus.
        settings: further config overrides, ``key.path=value``.
        progress: told what is being done.

    Returns:
        ``speed``: tokens/s with the sinks over without, from the wall clock; ``thread_speed``: the
        same from the CPU time of the decoding thread, which other programs cannot disturb. Medians
        over the pairs; ``*_range``: 10th and 90th percentile.

    Raises:
        ConfigError: a sink whose library is not installed.
    """
    chosen = list(sinks) or installed_sinks()
    missing = [name for name in chosen if name not in installed_sinks()]
    if missing:
        raise ConfigError(
            f"--sink: {missing[0]!r} is not installed here; choose from "
            f"{', '.join(installed_sinks())}."
        )
    shared = [f"w_max={w_max}", "ingest.nll=false", f"ingest.chunk={w_max}", *settings]
    watched = [*shared, f"telemetry.sinks=[{', '.join(chosen)}]"]

    with ExitStack() as stack:
        stack.enter_context(_otlp_receiver())
        sessions = [
            stack.enter_context(live_session(model, overrides)).session
            for overrides in (shared, watched)
        ]
        progress(f"history of {4 * w_max:,} tokens, twice")
        for session in sessions:
            session.append(library_tokens(session.parts.base.tokenizer, 4 * w_max))
            _decode_slice(session, blocks)

        # In turn, and each time in the other order: what drifts falls on both.
        progress(f"{pairs} pairs of {blocks} blocks")
        times = np.zeros((pairs, 2, 2))
        for pair in range(pairs):
            for which in (0, 1) if pair % 2 else (1, 0):
                times[pair, which] = _decode_slice(sessions[which], blocks)
        machine = machine_of(sessions[0])

    metrics: dict[str, Any] = {"model": model, "w_max": w_max, "sinks": chosen, "pairs": pairs}
    for clock, name in enumerate(("speed", "thread_speed")):
        ratio = times[:, 0, clock] / times[:, 1, clock]
        low, middle, high = np.percentile(ratio, [10, 50, 90]).tolist()
        metrics |= {name: middle, f"{name}_range": [low, high]}
    return metrics | machine


def _decode_slice(session: Session, blocks: int) -> tuple[float, float]:
    """(wall seconds, CPU seconds of this thread) of decoding ``blocks`` blocks."""
    wall, thread = time.perf_counter(), time.thread_time()
    session.decode(blocks * session.config.block_size)
    return time.perf_counter() - wall, time.thread_time() - thread


class _Receiver(BaseHTTPRequestHandler):
    """Accepts everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def _otlp_receiver() -> Iterator[None]:
    """A receiver on a free local port, named by the environment, unless one is named there."""
    if _ENDPOINT in os.environ:
        yield
        return
    server = HTTPServer(("127.0.0.1", 0), _Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ[_ENDPOINT] = f"http://127.0.0.1:{server.server_port}"
    try:
        yield
    finally:
        del os.environ[_ENDPOINT]
        server.shutdown()
        server.server_close()
