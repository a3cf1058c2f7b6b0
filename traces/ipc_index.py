"""Finds the whole record batches of an Arrow IPC file, also of a cut, growing or damaged one.

The stream inside the file is a chain of messages: ``FFFFFFFF``, the metadata length (int32), the
metadata (a flatbuffer), the body. A few integers of the metadata tell where the next one starts,
so a 450 MB trace is indexed without reading its bodies.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pyarrow as pa

from megacontext.traces.errors import TraceError
from megacontext.traces.files import FileHandle
from megacontext.traces.ipc_writer import DATA_START, MAGIC

__all__ = ["Block", "Scan", "data_end", "flatbuffer_field", "read_schema", "scan"]

_CONTINUATION = b"\xff\xff\xff\xff"
_MAX_METADATA = 16 << 20
_MAX_ROWS = 1 << 24
_SCHEMA, _DICTIONARY, _RECORD_BATCH = 1, 2, 3
_SEARCH_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """One record batch in the file, in bytes."""

    offset: int
    length: int
    rows: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found: batches, damaged byte ranges between them, where to go on."""

    blocks: list[Block]
    damage: list[tuple[int, int]]
    end: int
    finished: bool


@dataclass(frozen=True, slots=True)
class _Message:
    kind: int
    length: int
    rows: int


_LITTLE_ENDIAN = 0
_END_OF_STREAM = _Message(0, 8, 0)


def flatbuffer_field(metadata: bytes, table: int, number: int) -> int:
    """Position of a flatbuffer table's field, 0 where it has its default."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    if vtable < 0:
        raise struct.error("table points before the buffer")
    size = struct.unpack_from("<H", metadata, vtable)[0]
    entry = 4 + 2 * number
    if entry + 2 > size:
        return 0
    offset = int(struct.unpack_from("<H", metadata, vtable + entry)[0])
    return table + offset if offset else 0


def _message_at(handle: FileHandle, offset: int, size: int) -> _Message | None:
    """The message at ``offset`` if all of it lies below ``size``, else None."""
    head = handle.pread(offset, 8) if offset + 8 <= size else b""
    if len(head) < 8 or head[:4] != _CONTINUATION:
        return None
    length = struct.unpack_from("<i", head, 4)[0]

    if length == 0:
        return _END_OF_STREAM
    if not 0 < length <= _MAX_METADATA or offset + 8 + length > size:
        return None
    metadata = handle.pread(offset + 8, length)

    # Kind, body length and row count are in a flatbuffer; damage shows as a bad offset.
    try:
        message = struct.unpack_from("<I", metadata, 0)[0]
        kind_at = flatbuffer_field(metadata, message, 1)
        kind = metadata[kind_at] if kind_at else 0
        body_at = flatbuffer_field(metadata, message, 3)
        body = struct.unpack_from("<q", metadata, body_at)[0] if body_at else 0
        rows = 0
        if kind == _RECORD_BATCH:
            header = flatbuffer_field(metadata, message, 2)
            header += struct.unpack_from("<I", metadata, header)[0]
            rows_at = flatbuffer_field(metadata, header, 0)
            rows = struct.unpack_from("<q", metadata, rows_at)[0] if rows_at else 0
    except (struct.error, IndexError):
        return None

    # Values out of their limits mean damage, also where the parse succeeded.
    total = 8 + length + body
    if body < 0 or offset + total > size or not 0 <= rows <= _MAX_ROWS:
        return None
    if kind not in (_SCHEMA, _DICTIONARY, _RECORD_BATCH):
        return None
    return _Message(kind, total, rows)


def _decodes(handle: FileHandle, offset: int, message: _Message) -> bool:
    if message.kind != _RECORD_BATCH:
        return False
    try:
        pa.ipc.read_message(pa.py_buffer(handle.pread(offset, message.length)))
    except (pa.ArrowException, OSError):
        return False
    return True


def _next_batch(handle: FileHandle, start: int, size: int) -> int | None:
    """Offset of the first whole record batch at or after ``start``; messages are 8-aligned."""
    position = start
    while position < size:
        chunk = handle.pread(position, _SEARCH_BYTES + 8)
        at = chunk.find(_CONTINUATION)
        while 0 <= at < _SEARCH_BYTES:
            offset = position + at
            message = _message_at(handle, offset, size) if offset % 8 == 0 else None
            if message is not None and _decodes(handle, offset, message):
                return offset
            at = chunk.find(_CONTINUATION, at + 1)
        position += _SEARCH_BYTES
    return None


def data_end(handle: FileHandle) -> tuple[int, bool]:
    """Where the batches end at the latest, and whether the file has its footer."""
    size = handle.size()
    tail = handle.pread(max(0, size - 10), 10)
    if size > DATA_START + 10 and tail[4:] == MAGIC:
        footer = struct.unpack_from("<i", tail)[0]
        if 0 < footer <= size - 10 - DATA_START:
            return size - 10 - footer, True
    return size, False


def scan(handle: FileHandle, start: int, size: int, footer: bool) -> Scan:
    """Index the whole batches in bytes [start, size).

    Damaged stretches are skipped up to the next batch that parses. A message that is not whole
    yet ends the scan: the file may still grow.

    Raises:
        TraceError: the file has dictionary batches, which no trace has.
    """
    blocks: list[Block] = []
    damage: list[tuple[int, int]] = []
    position, finished = start, footer

    while position < size:
        message = _message_at(handle, position, size)
        if message is None:
            next_batch = _next_batch(handle, position + 8 - position % 8, size)
            if next_batch is None:
                if footer:
                    damage.append((position, size))
                    position = size
                break
            damage.append((position, next_batch))
            position = next_batch
            continue

        # The end-of-stream mark: nothing after it belongs to the trace.
        if message.kind == 0:
            finished = True
            position = size
            break

        if message.kind == _DICTIONARY:
            raise TraceError("the file has dictionary-encoded columns; a trace has none.")
        if message.kind == _RECORD_BATCH and message.rows:
            blocks.append(Block(position, message.length, message.rows))
        else:  # no writer puts anything else between batches, nor a batch without rows
            damage.append((position, position + message.length))
        position += message.length
    return Scan(blocks, damage, position, finished)


def _byte_order(metadata: bytes) -> int:
    """What a schema message says of its numbers; -1 where it cannot be told."""
    try:
        message = struct.unpack_from("<I", metadata, 0)[0]
        header = flatbuffer_field(metadata, message, 2)
        header += struct.unpack_from("<I", metadata, header)[0]
        at = flatbuffer_field(metadata, header, 0)
        return int(struct.unpack_from("<h", metadata, at)[0]) if at else _LITTLE_ENDIAN
    except struct.error:
        return -1


def read_schema(handle: FileHandle, name: str) -> tuple[pa.Schema, int]:
    """The schema of the trace and the offset of its first batch.

    Raises:
        TraceError: the file is empty, no Arrow file, cut inside its schema or damaged there.
    """
    size = handle.size()
    if size == 0:
        raise TraceError(f"{name} is empty; a trace starts with its schema.")
    if handle.pread(0, len(MAGIC)) != MAGIC[:size]:
        raise TraceError(f"{name} is no trace: it is not an Arrow IPC file.")
    message = _message_at(handle, DATA_START, size)
    if message is None or message.kind != _SCHEMA:
        raise TraceError(f"{name} was cut or damaged inside its schema; nothing can be read.")
    raw = handle.pread(DATA_START, message.length)
    if _byte_order(raw[8:]) != _LITTLE_ENDIAN:
        # Arrow would swap the bytes of every number on the way.
        raise TraceError(f"{name} has a damaged schema: its byte order is not little-endian.")
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(raw))
        _ = schema.names  # decoded here, where a damaged one can be told
        return schema, DATA_START + message.length
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{name} has a damaged schema; nothing can be read.") from error
