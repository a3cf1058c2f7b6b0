"""Text by token position: pieces, NLL and search over ``new_text``, batch by batch.

Rows record every token once, so the row that brought token t is the first one whose
``history_tokens`` exceeds t; no index beyond the overview is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from megacontext.traces.reader import TraceReader

__all__ = ["TextIndex"]


_GROUP = 64  # batches searched at a time


def _text_bytes(texts: pa.StringArray) -> bytes:
    data = texts.buffers()[2]  # a projected batch is no slice: its text starts at byte 0
    return bytes(memoryview(data)[: pc.sum(pc.binary_length(texts)).as_py() or 0]) if data else b""


def _tokens_of(batch: pa.RecordBatch, lists: pa.ListArray) -> np.ndarray:
    """I64[t]: the positions of the tokens that the rows of ``batch`` brought."""
    ends = batch.column("history_tokens").to_numpy().astype(np.int64)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    counts = np.diff(offsets)
    within = np.arange(counts.sum()) - np.repeat(offsets[:-1] - offsets[0], counts)
    tokens: np.ndarray = np.repeat(ends - counts, counts) + within
    return tokens


def _token_ends(batches: list[pa.RecordBatch]) -> tuple[np.ndarray, np.ndarray]:
    """Where each token's text ends in the joined text of ``batches``, and the tokens."""
    texts = [batch.column("new_text").flatten() for batch in batches]
    ends = np.cumsum(np.concatenate([pc.binary_length(text).to_numpy() for text in texts]))
    return ends, np.concatenate([_tokens_of(b, b.column("new_text")) for b in batches])


class TextIndex:
    """Looks text up in one reader."""

    def __init__(self, reader: TraceReader) -> None:
        self._reader = reader

    def find(
        self, text: str, start_token: int, *, backward: bool, ignore_case: bool
    ) -> tuple[int, int] | None:
        """See :meth:`TraceReader.find`."""
        needle = _normalized(text.encode(errors="replace"), ignore_case)
        history = self._reader.overview().history_tokens
        if not needle or not len(history):
            return None
        start = min(max(start_token, 0), int(history[-1]))
        row = min(int(np.searchsorted(history, start, side="right")), len(history) - 1)
        first_batch, last = self._reader.block_of(row), self._reader.num_batches
        groups = [(first, min(first + _GROUP, last)) for first in range(first_batch, last, _GROUP)]
        if backward:
            ends = range(first_batch + 1, 0, -_GROUP)
            groups = [(max(0, stop - _GROUP), stop) for stop in ends]
        for group in groups:
            span = self._find_in(group, needle, start, backward, ignore_case)
            if span is not None:
                return span
        return None

    def find_all(self, text: str, limit: int, *, ignore_case: bool) -> np.ndarray:
        """See :meth:`TraceReader.find_all`."""
        needle = _normalized(text.encode(errors="replace"), ignore_case)
        last = self._reader.num_batches
        matches: list[tuple[int, int]] = []
        if not needle:
            return np.empty((0, 2), np.int64)
        for first in range(0, last, _GROUP):
            group = first, min(first + _GROUP, last)
            batches, data = self._joined(group, needle, ignore_case)
            at = data.find(needle)
            if at < 0:
                continue
            ends, tokens = _token_ends(batches)
            while at >= 0 and len(matches) < limit:
                low, high = np.searchsorted(ends, [at, at + len(needle) - 1], side="right")
                span = int(tokens[low]), int(tokens[high]) + 1
                if span[1] - span[0] == high - low + 1:  # else rows are missing in between
                    matches.append(span)
                at = data.find(needle, at + len(needle))
        return np.array(matches, np.int64).reshape(-1, 2)

    def _joined(
        self, group: tuple[int, int], needle: bytes, ignore_case: bool
    ) -> tuple[list[pa.RecordBatch], bytes]:
        """Batches ``group``, their text, and what a match needs of the text of later ones."""
        batches, data, group_bytes = [], b"", 0
        for block, batch in self._text_batches(*group):
            if block >= group[1] and len(data) - group_bytes >= len(needle) - 1:
                break
            batches.append(batch)
            data += _text_bytes(batch.column("new_text").flatten())
            group_bytes = len(data) if block < group[1] else group_bytes
        return batches, _normalized(data[: group_bytes + len(needle) - 1], ignore_case)

    def _find_in(
        self, group: tuple[int, int], needle: bytes, start: int, backward: bool, ignore_case: bool
    ) -> tuple[int, int] | None:
        """A match that starts in batches ``group``; what it needs of later ones is read along."""
        batches, data = self._joined(group, needle, ignore_case)
        at = data.find(needle)
        if at < 0:
            return None
        ends, tokens = _token_ends(batches)
        best: tuple[int, int] | None = None
        while at >= 0:
            first = int(np.searchsorted(ends, at, side="right"))
            last = int(np.searchsorted(ends, at + len(needle) - 1, side="right"))
            span = int(tokens[first]), int(tokens[last]) + 1
            whole = span[1] - span[0] == last - first + 1  # else rows are missing in between
            if whole and not backward and span[0] >= start:
                return span
            if whole and backward and span[0] < start:
                best = span
            at = data.find(needle, at + 1)
        return best

    def _text_batches(self, first: int, stop: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches [first, stop) and then, one by one, all that follow."""
        last = self._reader.num_batches
        for span in chain([(first, stop)], ((block, block + 1) for block in range(stop, last))):
            batches = self._reader.project(["history_tokens", "new_text"], *span)
            for block, (_, batch) in enumerate(batches, span[0]):
                if batch is not None:
                    yield block, batch

    def pieces(self, start: int, stop: int) -> list[str]:
        """See :meth:`TraceReader.text_of`."""
        pieces = [""] * max(0, stop - start)
        for tokens, texts in self._values(start, stop, "new_text"):
            within = np.flatnonzero((tokens >= start) & (tokens < stop))
            if len(within):
                for j, text in zip(within, texts.take(pa.array(within)).to_pylist(), strict=True):
                    pieces[int(tokens[j]) - start] = text
        return pieces

    def nll(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`TraceReader.nll_of`."""
        output = np.full(max(0, stop - start), np.nan, np.float32)
        for tokens, values in self._values(start, stop, "new_nll"):
            within = (tokens >= start) & (tokens < stop)
            output[tokens[within] - start] = values.to_numpy()[within]
        return output

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


def _normalized(data: bytes, ignore_case: bool) -> bytes:
    return data.lower() if ignore_case else data
