"""What the tree's files may not do on the way, and what must be on stable storage at the end.

Written from the text of the format (docs/formats.md): headers are read here once more, byte by
byte, and nothing calls the code under test.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.faults import Call, SimDisk
from megacontext.simulator.faults.inode import HEAD_BYTES, Inode

__all__ = [
    "DATA_START",
    "FIELD_BYTES",
    "SLOT_BYTES",
    "DiskRules",
    "Slot",
    "serving_slot",
    "sound_slots",
]

SLOT_BYTES = 4096
DATA_START = 2 * SLOT_BYTES
assert DATA_START <= HEAD_BYTES
"""Two header slots come first in every ``.ctx`` file; a slot ends in the CRC-32 of the rest."""

_FIELDS = struct.Struct("<4sHBBHHIIIQQQII16s")
FIELD_BYTES = _FIELDS.size
"""Bytes of a header's numbers, before the names."""
_HEADS = "HEADS.ctx"
_ITEM_BYTES = {0: 4, 1: 2, 2: 2, 3: 4, 4: 1}


@dataclass(frozen=True)
class Slot:
    """The numbers of one sound header slot; ``number`` is 0 or 1."""

    number: int
    sequence: int
    count: int
    stride: int
    level: int
    commit_start: int
    commit_crc: int

    @property
    def last_commit(self) -> range:
        """Bytes of the rows of the last commit."""
        return range(
            DATA_START + self.commit_start * self.stride, DATA_START + self.count * self.stride
        )

    def is_intact(self, file: Inode) -> bool:
        """Whether the rows of its last commit have their checksum."""
        rows = self.last_commit
        return zlib.crc32(file.cache[rows.start : rows.stop].tobytes()) == self.commit_crc


@lru_cache(maxsize=64)  # a header is looked at when it is written, and when its neighbour is
def _slot(number: int, raw: bytes) -> Slot | None:
    """The slot in ``raw``; None where it is damaged."""
    if len(raw) < SLOT_BYTES or raw[-4:] != zlib.crc32(raw[:-4]).to_bytes(4, "little"):
        return None
    _, _, _, dtype, level, _, _, dim, _, sequence, count, start, crc, *_ = _FIELDS.unpack_from(raw)
    return Slot(number, sequence, count, dim * _ITEM_BYTES[dtype], level, start, crc)


def sound_slots(file: Inode) -> list[Slot]:
    """The sound slots at the beginning of a file."""
    raw = file.cache[: min(DATA_START, file.size)].tobytes()
    slots = [_slot(0, raw[:SLOT_BYTES]), _slot(1, raw[SLOT_BYTES:])]
    return [slot for slot in slots if slot is not None]


def serving_slot(file: Inode) -> Slot | None:
    """The sound header with the higher sequence; None where there is none."""
    return max(sound_slots(file), key=lambda slot: slot.sequence, default=None)


class DiskRules:
    """The rules of one tree's folder.

    Args:
        folder: the tree's.
    """

    def __init__(self, disk: SimDisk, folder: Path) -> None:
        self.disk, self.folder = disk, folder
        self._slots: dict[Inode, tuple[int, Slot | None]] = {}  # serving ones, by head_changes

    # -- at a call -----------------------------------------------------------------------------

    def at_call(self, call: Call) -> None:
        """What a writer may not do, seen before it is done."""
        if call.kind == "pwrite":
            in_header = call.offset < DATA_START and call.path.name.endswith((".ctx", ".ctx.new"))
            if in_header and not call.same:
                self._slot_write(call)
        elif call.kind == "rename" and call.path.name == "manifest.json":
            self._publication()

    def _slot_write(self, call: Call) -> None:
        """A header comes after its data, and never in the place of the one that serves."""
        assert call.file is not None
        assert call.block is not None
        new = _slot(call.offset // SLOT_BYTES, call.block.tobytes())
        end = DATA_START if new is None else DATA_START + new.count * new.stride
        # A sector may be dirty with what comes behind the rows that the header counts.
        late = call.file.unstable(DATA_START, end)
        if late:
            raise InvariantError(
                "commit_order", f"a header of {call.path} before {len(late)} sectors of data"
            )
        # One whose rows are damaged does not serve, and the older one is written over it.
        newest = self._serving(call.file)
        same_slot = newest is not None and newest.number == call.offset // SLOT_BYTES
        if newest is not None and same_slot and newest.is_intact(call.file):
            raise InvariantError(
                "commit_order", f"the serving header of {call.path} is overwritten in its place"
            )

    def _publication(self) -> None:
        """The manifest names files that are complete: their rows and their names are stable."""
        for path, file in self.disk.inside(self.folder):
            if path.name.endswith(".ctx.new") and file.dirty:
                raise InvariantError("commit_order", f"a manifest before the rows of {path}")
        for name in self.disk.unsynced_names():
            if name.endswith(".ctx.new"):
                raise InvariantError("commit_order", f"a manifest before the name: {name}")

    # -- when a call of the product returned ---------------------------------------------------

    def check_rows(self, n_tokens: int, block_size: int, when: str) -> None:
        """The serving header of every file says that it holds the rows of ``n_tokens`` tokens."""
        for path, _, slot in self._files(when, keys=False):  # those are a cache, and may lag
            rows = n_tokens // block_size**slot.level
            if slot.count != rows:
                raise InvariantError(
                    "durability", f"the header of {path} says {slot.count} rows, not {rows} {when}"
                )

    def check_stable(self, when: str, keys: bool = True) -> None:
        """Headers and rows are what a power cut would leave.

        The bytes are compared: after a failed sync a sector counts as clean and is on no disk.

        Args:
            keys: also those of HEADS.ctx. Its own store recovers it, once the tree is open.
        """
        for path, file, slot in self._files(when, keys):
            if not file.is_stable(DATA_START + slot.count * slot.stride):
                raise InvariantError("durability", f"{path} is not stable {when}")

    def check_names(self, when: str) -> None:
        """No name of the tree waits for a sync of its folder; those of an attempt may."""
        for name in self.disk.unsynced_names():
            if str(self.folder) in name and not name.endswith((".new", "LOCK")):
                raise InvariantError("durability", f"a power cut may undo '{name}' {when}")

    def check_leftovers(self, when: str) -> None:
        """No file of an unfinished attempt is left."""
        for path, _ in self.disk.inside(self.folder):
            if path.name.endswith(".new"):
                raise InvariantError("recovery", f"{path} is left {when}")

    def gist_rows(self) -> dict[int, int] | None:
        """Rows of each level by the headers; None where files of an unfinished attempt lie there,
        or a header is damaged."""
        rows: dict[int, int] = {}
        for path, file in self.disk.inside(self.folder):
            if path.name == _HEADS:
                continue
            if path.name.endswith(".new"):
                return None
            if path.name.endswith(".ctx"):
                slot = self._serving(file)
                if slot is None:
                    return None
                rows[slot.level] = min(slot.count, rows.get(slot.level, slot.count))
        return {level: count for level, count in rows.items() if level}

    @staticmethod
    def missing(rows: dict[int, int], n_tokens: int, block_size: int) -> int:
        """Gists of ``n_tokens`` tokens that a tree with so many ``rows`` lacks."""
        return sum(max(0, n_tokens // block_size**level - count) for level, count in rows.items())

    def _files(self, when: str, keys: bool) -> Iterator[tuple[Path, Inode, Slot]]:
        """The tree's files, with or without its keys', each with the header that serves."""
        for path, file in self.disk.inside(self.folder):
            if path.name.endswith(".ctx") and (keys or path.name != _HEADS):
                slot = self._serving(file)
                if slot is None:
                    raise InvariantError("durability", f"{path} has no sound header {when}")
                yield path, file, slot

    def _serving(self, file: Inode) -> Slot | None:
        """As :func:`serving_slot`, read again when the head of the file changed."""
        changes, slot = self._slots.get(file, (-1, None))
        if changes != file.head_changes:
            slot = serving_slot(file)
            self._slots[file] = file.head_changes, slot
        return slot
