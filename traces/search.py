"""Text by token position: pieces, NLL and search over ``new_text``, batch by batch.

Rows record every token once, so the row that brought token t is the first one whose
``history_tokens`` exceeds t; no index beyond the overview is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from megacontext.traces.reader import TraceReader

__all__ = ["TextIndex"]


class _Piece:
    """The text of one batch: its bytes, where each token starts in them, which token it is."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        lists = batch.column("new_text")
        texts = lists.flatten()
        lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
        self.starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        data = texts.buffers()[2]  # a projected batch is no slice: its text starts at byte 0
        self.data = bytes(memoryview(data)[: int(self.starts[-1])]) if data else b""
        self.tokens = _tokens_of(batch, lists)


def _tokens_of(batch: pa.RecordBatch, lists: pa.ListArray) -> np.ndarray:
    """I64[t]: the positions of the tokens that the rows of ``batch`` brought."""
    stops = batch.column("history_tokens").to_numpy().astype(np.int64)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    counts = np.diff(offsets)
    within = np.arange(counts.sum()) - np.repeat(offsets[:-1] - offsets[0], counts)
    tokens: np.ndarray = np.repeat(stops - counts, counts) + within
    return tokens


class TextIndex:
    """Looks text up in one reader."""

    def __init__(self, reader: TraceReader) -> None:
        self._reader = reader

    def find(
        self, text: str, start_token: int, *, backward: bool, ignore_case: bool
    ) -> tuple[int, int] | None:
        """See :meth:`TraceReader.find`."""
        needle = _folded(text.encode(errors="replace"), ignore_case)
        history = self._reader.overview().history_tokens
        if not needle or not len(history):
            return None
        start = min(max(start_token, 0), int(history[-1]))
        row = min(int(np.searchsorted(history, start, side="right")), len(history) - 1)
        here = self._reader.block_of(row)
        order: Iterable[int] = range(here, self._reader.num_batches)
        if backward:
            order = range(here, -1, -1)
        for block in order:
            span = self._find_in(block, needle, start, backward, ignore_case)
            if span is not None:
                return span
        return None

    def _find_in(
        self, block: int, needle: bytes, start: int, backward: bool, ignore_case: bool
    ) -> tuple[int, int] | None:
        """A match that starts in ``block``; what it needs of later batches is read along."""
        pieces: list[_Piece] = []
        wanted = 1
        for piece in self._pieces(block):
            pieces.append(piece)
            if len(pieces) == 1:
                wanted = len(piece.data) + len(needle) - 1
            if sum(len(p.data) for p in pieces) >= wanted:
                break
        if not pieces or not pieces[0].data:
            return None
        data = _folded(b"".join(p.data for p in pieces)[:wanted], ignore_case)
        lengths = np.concatenate([np.diff(p.starts) for p in pieces])
        stops = np.cumsum(lengths)
        tokens = np.concatenate([p.tokens for p in pieces])
        best: tuple[int, int] | None = None
        at = data.find(needle)
        while at >= 0:
            first = int(np.searchsorted(stops, at, side="right"))
            last = int(np.searchsorted(stops, at + len(needle) - 1, side="right"))
            span = int(tokens[first]), int(tokens[last]) + 1
            whole = span[1] - span[0] == last - first + 1  # else rows are missing in between
            if whole and not backward and span[0] >= start:
                return span
            if whole and backward and span[0] < start:
                best = span
            at = data.find(needle, at + 1)
        return best

    def _pieces(self, first: int) -> Iterator[_Piece]:
        stop = first
        while stop < self._reader.num_batches:  # in small groups: mostly one batch is enough
            stop += 2
            columns = ["history_tokens", "new_text"]
            for _, batch in self._reader.project(columns, first, stop):
                if batch is not None:
                    yield _Piece(batch)
            first = stop

    def pieces(self, start: int, stop: int) -> list[str]:
        """See :meth:`TraceReader.text_of`."""
        found = [""] * max(0, stop - start)
        for tokens, texts in self._values(start, stop, "new_text"):
            kept = np.flatnonzero((tokens >= start) & (tokens < stop))
            if len(kept):
                for j, text in zip(kept, texts.take(pa.array(kept)).to_pylist(), strict=True):
                    found[int(tokens[j]) - start] = text
        return found

    def nll(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`TraceReader.nll_of`."""
        found = np.full(max(0, stop - start), np.nan, np.float32)
        for tokens, values in self._values(start, stop, "new_nll"):
            inside = (tokens >= start) & (tokens < stop)
            found[tokens[inside] - start] = values.to_numpy()[inside]
        return found

    def _values(self, start: int, stop: int, name: str) -> Iterator[tuple[np.ndarray, pa.Array]]:
        history = self._reader.overview().history_tokens
        if not len(history) or stop <= max(start, 0) or start >= history[-1]:
            return
        first = int(np.searchsorted(history, max(start, 0), side="right"))
        last = int(np.searchsorted(history, min(stop, int(history[-1])) - 1, side="right"))
        blocks = self._reader.block_of(first), self._reader.block_of(last) + 1
        for _, batch in self._reader.project(["history_tokens", name], *blocks):
            if batch is not None:
                lists = batch.column(name)
                yield _tokens_of(batch, lists), lists.flatten()


def _folded(data: bytes, ignore_case: bool) -> bytes:
    return data.lower() if ignore_case else data
