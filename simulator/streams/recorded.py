"""A stream taken from a recorded trace: its tokens, and what its lens looked at, as the truth."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from megacontext.simulator.streams.base import EMPTY, Stream, Truth, truth
from megacontext.traces.errors import ConfigError
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import TraceRow

__all__ = ["Recorded"]


@dataclass
class Recorded(Stream):
    """Replays the trace named by the spec's ``recording``; drawn tokens follow after its end.

    The truth at n blocks is the first block of the ``count`` best-scored nodes (score above
    ``least``) of the last round that was scored with at most n blocks.

    Raises:
        ConfigError: no recording is named.
        TraceError: the recording cannot be read.
    """

    name: ClassVar[str] = "recorded"
    count: int = 4
    least: float = 0.2
    _times: list[int] = field(default_factory=list, init=False, repr=False)
    _truths: list[tuple[np.ndarray, np.ndarray]] = field(
        default_factory=list, init=False, repr=False
    )

    @cached_property
    def _recorded_tokens(self) -> np.ndarray:
        if self.spec.recording is None:
            raise ConfigError("stream 'recorded' needs a trace; name one with --recording.")
        pieces: list[np.ndarray] = []
        with TraceReader.open(Path(self.spec.recording)) as reader:
            size = reader.meta.block_size
            for row in reader.rows():
                pieces.append(row.new_tokens)
                self._times.append(row.history_tokens // self.spec.block_size)
                self._truths.append(self._best(row, size))
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint32)

    def _best(self, row: TraceRow, block_size: int) -> tuple[np.ndarray, np.ndarray]:
        scores = np.empty(0) if row.scores is None else np.nan_to_num(row.scores.astype(np.float64))
        width = np.int64(block_size) ** np.maximum(row.levels, 1).astype(np.int64)
        starts = np.cumsum(width) - width
        best = np.argsort(-scores, kind="stable")[: self.count]
        best = best[scores[best] > self.least]
        return starts[best] // self.spec.block_size, np.clip(scores[best], 0.05, 1.0)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        known = self._recorded_tokens
        if stop <= known.size:
            part: np.ndarray = known[start:stop]
            return part
        rest = super().tokens(max(start, known.size), stop)
        return np.concatenate([known[start:], rest]) % np.uint32(self.spec.vocab_size)

    def targets(self, n_blocks: int) -> Truth:
        if not self._recorded_tokens.size:
            return EMPTY
        at = bisect_right(self._times, n_blocks) - 1
        return EMPTY if at < 0 else truth(*self._truths[at], n_blocks)
