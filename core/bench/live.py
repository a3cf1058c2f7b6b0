"""A session with everything on (gists, keys, lens, allocator, trace, alarms, window) to measure."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megacontext.core.config import parse_config
from megacontext.core.config.sources import PythonSource
from megacontext.core.model import KVWindow
from megacontext.core.model.tokenizer import Tokenizer
from megacontext.core.runtime.build import build_parts, focus_of
from megacontext.core.runtime.recorder import Recorder
from megacontext.core.runtime.run import trace_writer
from megacontext.core.runtime.session import Session
from megacontext.core.sources.python import python_texts
from megacontext.core.telemetry.watch import SessionWatch
from megacontext.core.tree.spec import U32
from megacontext.traces.reader import TraceReader
from megacontext.traces.target import claim
from megacontext.traces.writer import TraceWriter

__all__ = ["LiveSession", "library_tokens", "live_session", "machine_of"]

_STAGES = ("us_decode", "us_gist", "us_lens", "us_alloc", "us_kv", "us_record")


@dataclass(frozen=True)
class LiveSession:
    """A running session and the trace that it writes."""

    session: Session
    writer: TraceWriter

    def refocuses(self, steps: range) -> dict[str, list[float]]:
        """What the refocuses in ``steps`` did and took, from the trace's rows.

        ``us_*``: host time of each stage, microseconds. A GPU works on behind the host; its time
        shows where the host waits for it. ``actions`` and ``kv_rows``: what there was to do.
        """
        self.session.flush()
        self.writer.flush()
        names = (*_STAGES, "kv_rows", "actions")
        by_step: dict[str, list[float]] = {name: [0.0] * len(steps) for name in names}
        with TraceReader.open(self.writer.path) as reader:
            for row in reader.rows():
                if row.step in steps:
                    for name in names:
                        value = len(row.actions) if name == "actions" else getattr(row, name)
                        by_step[name][row.step - steps.start] += float(value)
        return by_step


@contextmanager
def live_session(
    model: str,
    settings: Sequence[str],
    history: int = 0,
    progress: Callable[[int], None] = lambda n_tokens: None,
) -> Iterator[LiveSession]:
    """Build a session of ``model`` that records to a temporary trace; closes all of it.

    Args:
        model: as in ``model.path``.
        settings: further overrides, ``key.path=value``; the latest wins.
        history: tokens of library code that the tree holds already, in whole blocks; the window
            starts full of the newest of it.
        progress: called with the length of the history after every refocus.
    """
    config = parse_config("{}", [f"model.path={model}", *settings])
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "bench.arrow"
        with claim(trace, overwrite=True) as taken:
            parts = build_parts(config)
            if history:
                whole = history // config.block_size * config.block_size
                parts.tree.append(library_tokens(parts.base.tokenizer, whole))
                parts.focus = focus_of(parts.config, whole)
            watch = SessionWatch(parts.config, taken.path)
            try:
                with trace_writer(parts, taken) as writer:
                    sink = Recorder(writer, [watch])
                    session = Session(parts, sink, progress=progress)
                    session.warm_up()
                    yield LiveSession(session, writer)
            finally:
                watch.close()
                parts.close()


def library_tokens(tokenizer: Tokenizer, count: int) -> U32:
    """The first ``count`` tokens of Python's standard library, from the start again if it ends."""
    parts: list[U32] = []
    missing = count
    for text in python_texts(PythonSource(package="stdlib")):
        parts.append(tokenizer.encode(text))
        missing -= len(parts[-1])
        if missing <= 0:
            break
    return np.resize(np.concatenate(parts), count)


def machine_of(session: Session) -> dict[str, Any]:
    """What ran, and where."""
    base, window = session.parts.base, session.parts.window
    on_gpu = base.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(base.device) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(base.dtype).removeprefix("torch."),
        "window": window.describe() if isinstance(window, KVWindow) else type(window).__name__,
        "gists": session.parts.config.gist.kind,
        "lens": session.parts.lens.name,
    }
