"""Some columns of a trace's batches, read without touching the bytes of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from megacontext.traces.column_decoder import decode_columns
from megacontext.traces.files import FileHandle
from megacontext.traces.ipc_index import Block
from megacontext.traces.ipc_writer import DATA_START

__all__ = ["Projection"]

_CHUNK_BYTES = 32 << 20  # mapped at a time, so resident memory stays small
_ERRORS = (pa.ArrowException, OSError, EOFError, ValueError, StopIteration)


@dataclass(frozen=True, slots=True)
class Projection:
    """Columns ``names`` of the batches in ``blocks``, in the file's order of columns.

    Attributes:
        starts: first row of each block, and the number of rows at the end.
    """

    handle: FileHandle
    schema: pa.Schema
    blocks: Sequence[Block]
    starts: np.ndarray
    names: Sequence[str]

    def batches(self, first: int, stop: int) -> Iterator[tuple[int, pa.RecordBatch | None]]:
        """Batches [first, stop) with their first row's number; None where one is damaged."""
        for low, high in self._chunks(first, stop):
            mapped = self._map(high)
            if mapped is None:  # the file was cut under us
                yield from ((int(self.starts[number]), None) for number in range(low, stop))
                return
            yield from self._one_by_one(pa.BufferReader(pa.py_buffer(mapped)), low, high)

    def tables(self, first: int, stop: int) -> Iterator[tuple[int, pa.Table | None]]:
        """Batches [first, stop) as tables of neighbours; a damaged one comes alone, as None.

        A table is decoded in one call, during which other Python threads run.
        """
        for low, high in self._chunks(first, stop):
            mapped = self._map(high)
            table = None if mapped is None else self._table(mapped, low, high)
            if table is not None:
                yield int(self.starts[low]), table
                continue

            # Something in there is damaged: batch by batch.
            for start, batch in self.batches(low, high):
                yield start, None if batch is None else pa.Table.from_batches([batch])

    def _chunks(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        while first < stop:
            base, high = self.blocks[first].offset, first + 1
            while high < stop and self._end(high) - base <= _CHUNK_BYTES:
                high += 1
            yield first, high
            first = high

    def _end(self, block: int) -> int:
        return self.blocks[block].offset + self.blocks[block].length

    def _map(self, high: int) -> np.ndarray | None:
        """The file up to the end of block ``high`` - 1; None where it is shorter by now.

        A fresh map for each chunk: the one before, and what it made resident, goes away.
        """
        try:
            return self.handle.view(0, (self._end(high - 1),), np.uint8)
        except (OSError, ValueError):
            return None

    def _stream(self, source: pa.BufferReader) -> pa.RecordBatchStreamReader:
        names = set(self.names)
        fields = [i for i, name in enumerate(self.schema.names) if name in names]
        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        source.seek(DATA_START)
        return pa.ipc.open_stream(source, options=options)

    def _table(self, mapped: np.ndarray, low: int, high: int) -> pa.Table | None:
        """Blocks [low, high) as one table; None where they are not a sound chain of batches."""
        blocks = self.blocks[low:high]
        table = decode_columns(mapped, blocks, self.schema, self.names)
        if table is not None:
            return table

        # Not as this project writes them: Arrow reads them, more slowly.
        bounds = [block.offset for block in blocks[1:]]
        if bounds != [block.offset + block.length for block in blocks[:-1]]:
            return None  # bytes between them that are no batch
        source = pa.BufferReader(pa.py_buffer(mapped))
        try:
            stream = self._stream(source)
            source.seek(blocks[0].offset)
            table = stream.read_all()
            table.validate(full=True)
        except _ERRORS:
            return None
        rows = [batch.num_rows for batch in table.to_batches()]
        return table if rows == [block.rows for block in blocks] else None

    def _one_by_one(
        self, source: pa.BufferReader, low: int, high: int
    ) -> Iterator[tuple[int, pa.RecordBatch | None]]:
        stream = None
        for number in range(low, high):
            block = self.blocks[number]
            batch = None
            try:
                stream = stream or self._stream(source)
                source.seek(block.offset)
                batch = stream.read_next_batch()
                batch.validate(full=True)
                if batch.num_rows != block.rows:
                    batch = None
            except _ERRORS:
                batch, stream = None, None  # the caller counts a None as damage
            yield int(self.starts[number]), batch
