"""One header slot of a ``.ctx`` file: 4 KiB, little-endian, closed by a CRC-32.

The byte layout is documented in ``docs/formats.md``. Later versions keep the magic, the version
and the place of the slot's CRC, so that an older reader can tell "newer" from "damaged".
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from megacontext.core.tree.spec import MAX_NAME_BYTES
from megacontext.traces.errors import StorageError

__all__ = ["DATA_START", "MAGIC", "SLOT_BYTES", "VERSION", "Header", "Kind", "decode", "encode"]

MAGIC = b"MCCT"
VERSION = 1
SLOT_BYTES = 4096
DATA_START = 2 * SLOT_BYTES

_FIXED = struct.Struct("<4sHBBHHIIIQQQII16s")
_NAME = struct.Struct(f"<H{MAX_NAME_BYTES}s")
_CRC = struct.Struct("<I")
_CRC_AT = SLOT_BYTES - _CRC.size
_MODEL_AT = _FIXED.size
_CHECKPOINT_AT = _MODEL_AT + _NAME.size


class Kind(IntEnum):
    """What the rows of a file are."""

    TOKENS = 0
    GISTS = 1
    KEYS = 2
    HEADS = 3


_KINDS = frozenset(map(int, Kind))


@dataclass(frozen=True, slots=True)
class Header:
    """The content of one slot.

    Attributes:
        dim: values in a row (1 for tokens).
        dtype_code: 0 uint32, 1 fp16, 2 bf16, 3 fp32, 4 int8.
        generation: 0 for LOD0; for gists and keys the manifest's generation, raised by regist.
        sequence: raised by every commit; the slot is ``sequence & 1``.
        count: rows committed.
        commit_start: first row of the last commit.
        commit_crc: CRC-32 of rows [commit_start, count).
        total_crc: CRC-32 of rows [0, count).
        checkpoint: gist checkpoint id, empty for LOD0.
    """

    kind: Kind
    dtype_code: int
    level: int
    block_size: int
    dim: int
    generation: int
    sequence: int
    count: int
    commit_start: int
    commit_crc: int
    total_crc: int
    tree_id: bytes
    model: str
    checkpoint: str


def encode(header: Header) -> bytes:
    """The slot's 4,096 bytes."""
    slot = bytearray(SLOT_BYTES)
    _FIXED.pack_into(
        slot,
        0,
        MAGIC,
        VERSION,
        header.kind,
        header.dtype_code,
        header.level,
        0,
        header.block_size,
        header.dim,
        header.generation,
        header.sequence,
        header.count,
        header.commit_start,
        header.commit_crc,
        header.total_crc,
        header.tree_id,
    )

    # Each name is stored with its length at a fixed offset; the checksum comes last.
    for at, text in ((_MODEL_AT, header.model), (_CHECKPOINT_AT, header.checkpoint)):
        name = text.encode()
        _NAME.pack_into(slot, at, len(name), name)
    _CRC.pack_into(slot, _CRC_AT, zlib.crc32(memoryview(slot)[:_CRC_AT]))
    return bytes(slot)


def decode(slot: bytes, where: str) -> Header | None:
    """The header in ``slot``, or None where it is torn, damaged or no header at all.

    Raises:
        StorageError: the slot is sound and of a newer version.
    """
    if len(slot) != SLOT_BYTES or slot[:4] != MAGIC:
        return None
    if _CRC.unpack_from(slot, _CRC_AT)[0] != zlib.crc32(memoryview(slot)[:_CRC_AT]):
        return None

    # Refuse a newer version: taken as damaged, its slot would be overwritten.
    values = _FIXED.unpack_from(slot)
    version, kind = values[1], values[2]
    if version > VERSION:
        raise StorageError(
            f"{where} has format version {version} but this program reads up to {VERSION}; "
            f"use a newer megacontext."
        )
    if kind not in _KINDS:
        return None

    model, checkpoint = _name(slot, _MODEL_AT), _name(slot, _CHECKPOINT_AT)
    return Header(
        kind=Kind(kind),
        dtype_code=values[3],
        level=values[4],
        block_size=values[6],
        dim=values[7],
        generation=values[8],
        sequence=values[9],
        count=values[10],
        commit_start=values[11],
        commit_crc=values[12],
        total_crc=values[13],
        tree_id=values[14],
        model=model,
        checkpoint=checkpoint,
    )


def _name(slot: bytes, at: int) -> str:
    length, raw = _NAME.unpack_from(slot, at)
    return str(raw[:length], "utf-8", "replace")
