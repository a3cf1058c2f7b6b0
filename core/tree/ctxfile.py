"""One ``.ctx`` file: rows of fixed stride behind two header slots.

A commit writes data, syncs, writes the slot that the last commit did not use, and syncs again:
whatever a crash tears, the other slot still describes bytes that reached the disk. The file grows
ahead in chunks (``truncate``), so that a memory map rarely has to be renewed. That leaves holes,
but only written rows are ever read, so a full disk is an ``OSError`` of ``pwrite`` or ``datasync``
and never a signal.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megacontext.core.tree import header as headers
from megacontext.core.tree.buffer import Mark
from megacontext.core.tree.codec import CODES, STORED
from megacontext.core.tree.header import DATA_START, SLOT_BYTES, Header, Kind
from megacontext.traces.errors import StorageError
from megacontext.traces.files import FileHandle, FileLayer

__all__ = ["CtxFile", "peek"]

_MIN_GROWTH = 64 << 10
_MAX_GROWTH = 64 << 20
_CHECK_BYTES = 16 << 20
_DTYPES = {code: name for name, code in CODES.items()}


@dataclass(frozen=True)
class _Slots:
    """The sound headers of a file, newest first."""

    sound: tuple[Header, ...]
    damaged: int


def _read_slots(handle: FileHandle, where: str, tries: int = 3) -> _Slots:
    """What the headers say; a damaged one is read again, for a writer may be at it just now."""
    slots = _slots_now(handle, where)
    while slots.damaged and tries > 1:
        slots, tries = _slots_now(handle, where), tries - 1
    return slots


def _slots_now(handle: FileHandle, where: str) -> _Slots:
    raw = [handle.pread(at, SLOT_BYTES) for at in (0, SLOT_BYTES)]
    sound = [header for slot in raw if (header := headers.decode(slot, where)) is not None]
    sound.sort(key=lambda header: header.sequence, reverse=True)
    return _Slots(tuple(sound), 2 - len(sound))


def peek(files: FileLayer, path: Path) -> Header | None:
    """The newest sound header of the file at ``path``; None where there is none."""
    if not files.exists(path):
        return None
    handle = files.open(path)
    try:
        slots = _read_slots(handle, str(path))
        return slots.sound[0] if slots.sound else None
    finally:
        handle.close()


class CtxFile:
    """Rows on disk. Errors of the disk are :class:`OSError`, those of the content StorageError.

    Attributes:
        path: where it was opened (a rename since then does not matter to an open file).
        count: rows, committed or not.
        fell_back: the newest header when its data failed their CRC and the older one serves.
        damaged_slots: header slots that could not be read when the file was opened.
    """

    def __init__(self, handle: FileHandle, path: Path, header: Header, write: bool) -> None:
        self.path = path
        self.count = header.count
        self.fell_back: Header | None = None
        self.damaged_slots = 0
        self._handle = handle
        self._write = write
        self._header = header
        self._dtype = STORED[_DTYPES[header.dtype_code]]
        self._row_shape = () if header.kind == Kind.TOKENS else (header.dim,)
        self._stride = header.dim * self._dtype.itemsize
        self._commit_crc, self._total_crc = 0, header.total_crc
        self._map: NDArray[Any] = np.empty((0, *self._row_shape), self._dtype)
        self._capacity = 0

    @classmethod
    def create(cls, files: FileLayer, path: Path, header: Header) -> CtxFile:
        """A new file without rows, both slots sound and on stable storage."""
        handle = files.open(path, write=True, create=True)
        try:
            handle.truncate(0)  # leftovers of an unfinished attempt
            for sequence in (0, 1):
                slot = replace(header, sequence=sequence)
                handle.pwrite(sequence * SLOT_BYTES, headers.encode(slot))
            handle.datasync()
        except BaseException:
            handle.close()
            raise
        return cls(handle, path, slot, write=True)

    @classmethod
    def open(cls, files: FileLayer, path: Path, write: bool, fix: str) -> CtxFile:
        """Open the newest commit whose data are intact; a writer syncs it, nothing is changed.

        Args:
            fix: what the user can do about a damaged file, the end of the sentence.

        Raises:
            StorageError: no header is sound, committed rows are cut off, or no commit is intact.
        """
        handle = files.open(path, write=write)

        # The newest header whose last commit passes its checksum serves.
        try:
            slots = _read_slots(handle, str(path))
            if not slots.sound:
                raise StorageError(f"both headers of {path} are damaged or foreign; {fix}.")
            for header in slots.sound:
                file = cls(handle, path, header, write)
                file._adopt_size(fix)
                if file._commit_is_intact():
                    break
            else:
                newest = slots.sound[0]
                raise StorageError(
                    f"entries {newest.commit_start} to {newest.count} of {path} fail their "
                    f"checksum and no older commit is intact; {fix}."
                )

            # Refuse to fall back to an empty history: that would lose every token silently.
            newest = slots.sound[0]
            if file.count == 0 and newest.count > 0 and newest.kind == Kind.TOKENS:
                raise StorageError(
                    f"all {newest.count} entries of {path} are in one commit that fails its "
                    f"checksum; {fix}."
                )
        except BaseException:
            handle.close()
            raise

        # What was passed over is reported by the recovery.
        file.fell_back = newest if newest is not file._header else None
        file.damaged_slots = slots.damaged
        return file

    @property
    def header(self) -> Header:
        """What the disk holds as the last commit."""
        return self._header

    @property
    def committed(self) -> int:
        return self._header.count

    def append(self, rows: NDArray[Any]) -> None:
        if not len(rows):
            return
        end = self.count + len(rows)
        if end > self._capacity:
            self._grow(end)
        data = rows.reshape(-1).view(np.uint8).data
        self._handle.pwrite(DATA_START + self.count * self._stride, data)
        self._commit_crc = zlib.crc32(data, self._commit_crc)
        self._total_crc = zlib.crc32(data, self._total_crc)
        self.count = end

    def view(self, start: int, stop: int) -> NDArray[Any]:
        if stop > len(self._map):
            # A reader's file may shrink beyond its committed rows when the writer closes.
            rows = self._capacity if self._write else self.count
            self._map = self._handle.view(DATA_START, (rows, *self._row_shape), self._dtype)
        return self._map[start:stop]

    def mark(self) -> Mark:
        return self.count, self._commit_crc, self._total_crc

    def rollback(self, mark: Mark) -> None:
        assert mark[0] >= self.committed
        self.count, self._commit_crc, self._total_crc = mark

    def commit(self) -> None:
        if self.count == self._header.count:
            return
        self._handle.datasync()
        self._put(
            replace(
                self._header,
                sequence=self._header.sequence + 1,
                count=self.count,
                commit_start=self._header.count,
                commit_crc=self._commit_crc,
                total_crc=self._total_crc,
            )
        )
        self._commit_crc = 0

    def make_durable(self) -> None:
        """Write the serving header again, as it is, and sync.

        A killed process, or a sync that failed, may have left it in the page cache alone, even in
        pages that count as clean; what a writer reports as committed must survive a power cut. The
        same bytes in the same slot: a torn write does no harm.
        """
        self._write_slot(self._header)

    def trim(self, count: int) -> None:
        """Forget rows from ``count`` on, durably, before anything overwrites them."""
        if self.count <= count:
            return
        if count > self._header.count:
            self._handle.datasync()  # rows that no commit has covered are vouched for from now on
        self.count, self._commit_crc, self._total_crc = count, 0, self._crc(0, count)
        self._put(
            replace(
                self._header,
                sequence=self._header.sequence + 1,
                count=count,
                commit_start=count,
                commit_crc=0,
                total_crc=self._total_crc,
            )
        )

    def settle(self) -> None:
        """Overwrite the header that is damaged, or whose data are, with the one in use."""
        if self.fell_back is not None or self.damaged_slots:
            self._put(replace(self._header, sequence=self._header.sequence + 1))

    def beyond(self, entries: int) -> bytes:
        """Raw bytes of up to ``entries`` rows after the last one."""
        return self._handle.pread(DATA_START + self.count * self._stride, entries * self._stride)

    def refresh(self) -> None:
        """Reader: adopt the newest commit in the file."""
        slots = _read_slots(self._handle, str(self.path))
        if slots.sound and slots.sound[0].sequence > self._header.sequence:
            self._header = slots.sound[0]
            self.count = self._header.count

    def problems(self) -> list[str]:
        """Sentences about headers and committed data; reads all of it."""
        slots = _read_slots(self._handle, str(self.path))
        problems = []
        if slots.damaged:
            problems.append(f"{slots.damaged} of 2 headers of {self.path.name} are damaged.")
        if not self.is_intact():
            problems.append(
                f"the {self.committed} entries of {self.path.name} fail their checksum."
            )
        return problems

    def is_intact(self) -> bool:
        """Whether all committed rows have their checksum; reads all of them."""
        return self._crc(0, self.committed) == self._header.total_crc

    def close(self) -> None:
        self._handle.close()

    def shrink(self) -> None:
        """Cut the space grown ahead off the end of the file."""
        if self._capacity > self.count:
            self._handle.truncate(DATA_START + self.count * self._stride)
            self._capacity = self.count

    def _write_slot(self, header: Header) -> None:
        self._handle.pwrite((header.sequence & 1) * SLOT_BYTES, headers.encode(header))
        self._handle.datasync()

    def _put(self, header: Header) -> None:
        self._write_slot(header)
        self._header, self.fell_back, self.damaged_slots = header, None, 0

    def _grow(self, rows: int) -> None:
        ahead = min(max(self._capacity * self._stride // 2, _MIN_GROWTH), _MAX_GROWTH)
        capacity = max(rows, self._capacity) + ahead // self._stride
        self._handle.truncate(DATA_START + capacity * self._stride)
        self._capacity = capacity

    def _adopt_size(self, fix: str) -> None:
        stored = max(self._handle.size() - DATA_START, 0) // self._stride
        if stored < self.count:
            raise StorageError(
                f"{self.path} is cut short: it holds {stored} of {self.count} committed entries; "
                f"{fix}."
            )
        self._capacity = stored

    def _commit_is_intact(self) -> bool:
        header = self._header
        return self._crc(header.commit_start, header.count) == header.commit_crc

    def _crc(self, start: int, stop: int) -> int:
        """CRC-32 of rows [start, stop), read in bounded pieces."""
        crc, at = 0, DATA_START + start * self._stride
        end = DATA_START + stop * self._stride
        while at < end:
            data = self._handle.pread(at, min(_CHECK_BYTES, end - at))
            if not data:
                break
            crc, at = zlib.crc32(data, crc), at + len(data)
        return crc
