"""One file of the simulated disk: its page cache, and what of it is on stable storage."""

from __future__ import annotations

import mmap

import numpy as np

from megacontext.simulator.faults.calls import SECTOR, Fate

__all__ = ["HEAD_BYTES", "Inode"]

HEAD_BYTES = 8192
"""The beginning of a file, where formats keep their headers."""

_ZEROS = bytes(SECTOR)


def _pages(size: int) -> np.ndarray:
    """U8[size] of zeros that take memory only where they are written."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


class Inode:
    """Bytes as a process sees them, and sectors as a power cut leaves them.

    Attributes:
        cache: U8[file_bytes], what is read; zeros beyond ``size``.
        stable: sectors of stable storage by number; an absent one is zeros.
        size, stable_size: bytes.
        dirty: numbers of the sectors that were written and not synced since.
        head_changes: how often something in the first ``HEAD_BYTES`` of the cache changed.
    """

    __slots__ = ("_doubtful", "cache", "dirty", "head_changes", "size", "stable", "stable_size")

    def __init__(self, file_bytes: int) -> None:
        self.cache = _pages(file_bytes)
        self.stable: dict[int, bytes] = {}
        self.size = self.stable_size = 0
        self.dirty: set[int] = set()
        self.head_changes = 0
        # All sectors that may differ between the cache and stable storage, dirty or not.
        self._doubtful: set[int] = set()

    def holds(self, offset: int, block: np.ndarray) -> bool:
        """Whether ``block`` is in the page cache at ``offset`` already."""
        end = offset + block.size
        return end <= self.size and self.cache[offset:end].tobytes() == block.tobytes()

    def write(self, offset: int, block: np.ndarray) -> None:
        """U8 ``block`` goes to the page cache."""
        if block.size == 0:
            return
        end = offset + block.size
        self.cache[offset:end] = block
        self._touched(min(offset, self.size), end)
        self.size = max(self.size, end)

    def truncate(self, size: int) -> None:
        """Cut off, or grow with zeros, which needs no data."""
        if size < self.size:
            self.cache[size : self.size] = 0
            self._touched(size, self.size)
        self.size = size

    def _touched(self, start: int, end: int) -> None:
        """Bytes [start, end) are other ones now, in the cache alone."""
        sectors = range(start // SECTOR, (end - 1) // SECTOR + 1)
        self.dirty.update(sectors)
        self._doubtful.update(sectors)
        self.head_changes += start < HEAD_BYTES

    def sync(self) -> None:
        """Everything dirty, and the size, is stable."""
        if self.dirty:
            start = min(self.dirty) * SECTOR
            cached = self.cache[start : (max(self.dirty) + 1) * SECTOR].tobytes()
            for sector in self.dirty:
                at = sector * SECTOR - start
                self.stable[sector] = cached[at : at + SECTOR]
            self.dirty.clear()
        self.stable_size = self.size

    def is_stable(self, end: int) -> bool:
        """Whether a power cut now would leave the first ``end`` bytes as they are read.

        The bytes themselves are compared: after a failed sync a sector may count as clean and be
        on no disk. Those that were found equal are looked at again when they were touched again.
        """
        if self.stable_size < end:
            return False
        equal = []
        for sector in self._doubtful:
            first = sector * SECTOR
            if first < end:
                length = min(SECTOR, end - first)
                stored = self.stable.get(sector, _ZEROS)
                if stored[:length] != self.cache[first : first + length].tobytes():
                    return False
                if length == SECTOR:
                    equal.append(sector)
        self._doubtful.difference_update(equal)
        return True

    def unstable(self, start: int, end: int) -> list[int]:
        """The dirty sectors from byte ``start`` that a power cut would leave other than they are
        read before byte ``end``; ``start`` is the beginning of one."""
        sectors = []
        for sector in self.dirty:
            first = sector * SECTOR
            if start <= first < end:
                cached = self.cache[first : min(first + SECTOR, end)].tobytes()
                if cached != self.stable.get(sector, _ZEROS)[: len(cached)]:
                    sectors.append(sector)
        return sectors

    def flip(self, bit: int) -> None:
        """Turn one bit over, on stable storage and in the cache."""
        mask = 1 << (bit % 8)
        self.cache[bit // 8] ^= np.uint8(mask)
        sector, at = divmod(bit // 8, SECTOR)
        stored = bytearray(self.stable.get(sector, _ZEROS))
        stored[at] ^= mask
        self.stable[sector] = bytes(stored)
        self._doubtful.add(sector)
        self.head_changes += bit // 8 < HEAD_BYTES

    def survive(self, fate: Fate, rng: np.random.Generator) -> None:
        """Power fails: of what is dirty, ``fate`` says what reached the disk."""
        if self.dirty or self.size != self.stable_size:
            low, high = sorted((self.stable_size, self.size))
            size = self.size if rng.random() < fate.keep else self.stable_size
            if fate.torn and high > low and rng.random() < 0.5:
                size = int(rng.integers(low, high + 1))
            for sector in sorted(self.dirty):
                if rng.random() < fate.keep:
                    part = slice(sector * SECTOR, (sector + 1) * SECTOR)
                    self.stable[sector] = self.cache[part].tobytes()
            self.stable_size = size

        # Nothing is beyond the end, also where the file grows again.
        end = self.stable_size
        self.stable = {s: data for s, data in self.stable.items() if s * SECTOR < end}
        if end % SECTOR and (last := self.stable.get(end // SECTOR)) is not None:
            self.stable[end // SECTOR] = last[: end % SECTOR].ljust(SECTOR, b"\0")

        # Old views keep the dead process's pages.
        fresh = _pages(self.cache.size)
        if self.stable:
            sectors = range(max(self.stable) + 1)
            stored = b"".join([self.stable.get(sector) or _ZEROS for sector in sectors])
            fresh[: len(stored)] = np.frombuffer(stored, np.uint8)
        self.cache, self.size = fresh, end
        self.dirty.clear()
        self._doubtful.clear()
        self.head_changes += 1
