"""What recording costs the decoding thread, what the writer carries, what a row weighs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.core.rng import generator
from megacontext.traces.meta import TraceMeta
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import ACTION_DTYPE, REJECTED_DTYPE, TraceRow
from megacontext.traces.writer import TraceWriter

__all__ = ["bench", "rows_of"]

_BLOCK_SIZE = 32
_VARIANTS = 64  # different rows that are written in turn


def bench(
    entries: Sequence[int] = (1_024, 8_192),
    rows: int = 400,
    gap_ms: float = 5.0,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Time ``put`` on the calling thread, the writer's throughput and reading back.

    Args:
        entries: frontier nodes per row, each with a score.
        rows: rows per case.
        gap_ms: pause between two ``put`` calls when their cost is measured: the decoding in
            between, during which the writer thread works.
        folder: where the traces go; by default the system's temporary folder.

    Returns:
        By number of entries: ``put_us`` (p50, p99, max), ``rows_per_s`` of the writer under a
        constant stream, ``bytes_per_row``, ``scores_dropped`` in both runs, and ``read_us``
        (p50, p99) of random rows.
    """
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for count in entries:
            made = rows_of(count)
            paced = _paced(Path(scratch) / "paced.arrow", made, rows, gap_ms)
            path = Path(scratch) / "stream.arrow"
            streamed = _streamed(path, made, rows)
            results[str(count)] = paced | streamed | _read(path, rows)
    return results


def rows_of(entries: int) -> list[TraceRow]:
    """Rows like a session's: scores that drift, a few actions, one block of text."""
    rows = []
    for number in range(_VARIANTS):
        random = generator(0, "bench trace", number)
        position = np.linspace(0, 60, entries, dtype=np.float32)
        scores = 0.4 * np.sin(position + number / 30)
        scores += 0.05 * random.standard_normal(entries, np.float32)
        actions = np.zeros(6, ACTION_DTYPE)
        actions["level"], actions["index"] = 1, random.integers(0, entries, 6)
        rejected = np.zeros(16, REJECTED_DTYPE)
        rejected["level"], rejected["index"] = 1, random.integers(0, entries, 16)

        # One block of text a row.
        rows.append(
            TraceRow(
                step=number,
                history_tokens=entries * _BLOCK_SIZE,
                new_tokens=random.integers(0, 128_000, _BLOCK_SIZE, dtype=np.uint32),
                new_text=[f" w{token}" for token in random.integers(0, 9_999, _BLOCK_SIZE)],
                new_nll=random.gamma(2, 1.4, _BLOCK_SIZE).astype(np.float32),
                appended_levels=np.zeros(1, np.int8),
                levels=np.ones(entries, np.int8),
                scores=scores.astype(np.float16),
                actions=actions,
                rejected=rejected,
                budget_used=entries,
                w_max=entries + 2 * _BLOCK_SIZE,
            )
        )
    return rows


def _meta(made: list[TraceRow]) -> dict[str, str]:
    return TraceMeta(block_size=_BLOCK_SIZE, w_max=made[0].w_max, levels=3).to_metadata()


def _paced(path: Path, made: list[TraceRow], rows: int, gap_ms: float) -> dict[str, Any]:
    costs_us = np.empty(rows)
    with TraceWriter(path, _meta(made)) as writer:
        for number in range(rows):
            start = time.perf_counter()
            writer.put(made[number % _VARIANTS])
            costs_us[number] = (time.perf_counter() - start) * 1e6
            time.sleep(gap_ms / 1e3)
    return {
        "put_us_p50": float(np.quantile(costs_us, 0.5)),
        "put_us_p99": float(np.quantile(costs_us, 0.99)),
        "put_us_max": float(costs_us.max()),
        "paced_scores_dropped": writer.scores_dropped,
    }


def _streamed(path: Path, made: list[TraceRow], rows: int) -> dict[str, Any]:
    start = time.perf_counter()
    with TraceWriter(path, _meta(made), queue_rows=rows) as writer:
        for number in range(rows):
            writer.put(made[number % _VARIANTS])
    return {
        "rows_per_s": rows / (time.perf_counter() - start),
        "bytes_per_row": path.stat().st_size / rows,
        "streamed_scores_dropped": writer.scores_dropped,
    }


def _read(path: Path, rows: int) -> dict[str, Any]:
    costs_us = np.empty(200)
    choices = generator(0, "bench trace read").integers(0, rows, len(costs_us))
    with TraceReader.open(path) as reader:
        for number, row in enumerate(choices.tolist()):
            start = time.perf_counter()
            reader.row(row)
            costs_us[number] = (time.perf_counter() - start) * 1e6
    return {
        "read_us_p50": float(np.quantile(costs_us, 0.5)),
        "read_us_p99": float(np.quantile(costs_us, 0.99)),
    }
