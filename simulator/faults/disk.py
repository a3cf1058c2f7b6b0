"""A file system in memory with a page cache, stable storage and a power switch.

:class:`SimDisk` implements the product's file layer. Writes land in the page cache; ``datasync``
moves a file's dirty 512-byte sectors and its size to stable storage; ``sync_folder`` makes names
durable. :meth:`SimDisk.crash` keeps an arbitrary part of what was not synced, as the
:class:`Fate` says, and forgets the rest. Hooks see every call before it happens and may raise,
so a fault can strike at any call. There is no clock and no randomness but the fate's seed.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from megacontext.core.rng import generator
from megacontext.simulator.faults.calls import CHANGING, SECTOR, Call, Fate, Hook, Killed
from megacontext.traces.errors import LockedError

__all__ = ["SimDisk"]


def _pages(size: int) -> np.ndarray:
    """U8[size] of zeros that take memory only where they are written."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


@dataclass(eq=False)
class _Inode:
    """A file: the page cache, and the sectors of stable storage by number (absent: zeros)."""

    cache: np.ndarray
    stable: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    stable_size: int = 0
    dirty: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _NameOp:
    """A change of the name table that is not durable until its folder is synced."""

    folder: Path
    kind: str
    path: Path
    inode: _Inode | None = None
    source: Path | None = None


class _Handle:
    def __init__(self, disk: SimDisk, path: Path, inode: _Inode, write: bool) -> None:
        self._disk, self._path, self._inode, self._write = disk, path, inode, write
        self._epoch = disk.epoch
        self._open = True

    def _call(self, kind: str, length: int = 0, offset: int = 0, same: bool = False) -> bool:
        if not self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self._path))
        if kind in CHANGING and not self._write:
            raise OSError(errno.EBADF, "not open for writing", str(self._path))
        return self._disk.call(
            kind, self._path, self._epoch, length, offset, self._inode.dirty, same
        )

    def size(self) -> int:
        self._call("size")
        return self._inode.size

    def pread(self, offset: int, length: int) -> bytes:
        self._call("pread", length)
        return self._inode.cache[offset : min(offset + length, self._inode.size)].tobytes()

    def pwrite(self, offset: int, data: bytes | memoryview) -> None:
        block = np.frombuffer(memoryview(data).cast("B"), np.uint8)
        end = offset + block.size
        same = end <= self._inode.size and np.array_equal(self._inode.cache[offset:end], block)
        if self._call("pwrite", block.size, offset, same):
            return
        room = self._disk.room(self._inode, end)
        if room < end:  # like a real disk: what fits is written, then the error
            self._store(offset, block[: max(0, room - offset)])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._store(offset, block)

    def _store(self, offset: int, block: np.ndarray) -> None:
        if block.size == 0:
            return
        node, end = self._inode, offset + block.size
        node.cache[offset:end] = block
        node.dirty.update(range(min(offset, node.size) // SECTOR, (end - 1) // SECTOR + 1))
        node.size = max(node.size, end)

    def truncate(self, size: int) -> None:
        if self._call("truncate", size):
            return
        node = self._inode
        if self._disk.room(node, size) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        if size < node.size:  # growing needs no data: what lies beyond the end is zeros
            node.cache[size : node.size] = 0
            node.dirty.update(range(size // SECTOR, (node.size - 1) // SECTOR + 1))
        node.size = size

    def datasync(self) -> None:
        node, lies = self._inode, self._disk.lies
        unsynced = bool(node.dirty) or node.size != node.stable_size
        try:
            swallowed = self._call("datasync")
        except OSError:
            if unsynced and not node.dirty and node in lies:
                lies[node] = True  # what the lie was about was dropped: no later sync brings it
            raise
        if swallowed:
            if unsynced:
                lies.setdefault(node, False)
            return
        if not lies.get(node, True):
            del lies[node]
        for sector in node.dirty:
            node.stable[sector] = node.cache[sector * SECTOR : (sector + 1) * SECTOR].tobytes()
        node.dirty.clear()
        node.stable_size = node.size

    def view(self, offset: int, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        self._call("view")
        kind = np.dtype(dtype)
        length = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if offset + length > self._inode.size:
            raise ValueError(f"a view of {length} bytes at {offset} ends beyond {self._path}")
        flat = self._inode.cache[offset : offset + length].view(kind).reshape(shape)
        flat.flags.writeable = False
        return flat

    def close(self) -> None:
        self._open = False


class _SimLock:
    def __init__(self, disk: SimDisk, path: Path) -> None:
        self._disk, self._path, self._epoch = disk, path, disk.epoch

    def release(self) -> None:
        if self._disk.locks.get(self._path) == self._epoch:
            del self._disk.locks[self._path]


class SimDisk:
    """The product's file layer over memory; see the module's docstring.

    Args:
        root: a folder that exists and is durable from the start.
        file_bytes: the largest size of one file; a write beyond it is ENOSPC.
        capacity_bytes: the size of the disk, None for no limit but ``file_bytes``.
    """

    def __init__(
        self,
        root: Path = Path("/sim"),
        file_bytes: int = 1 << 22,
        capacity_bytes: int | None = None,
    ) -> None:
        self.root, self.file_bytes, self.capacity_bytes = root, file_bytes, capacity_bytes
        self.epoch = 0
        self.calls = 0
        self.hooks: list[Hook] = []
        self.locks: dict[Path, int] = {}
        # Files of which a sync said what was not so; True: beyond repair by a later sync.
        self.lies: dict[_Inode, bool] = {}
        self._names: dict[Path, _Inode | None] = {root: None}  # None: a folder
        self._durable: dict[Path, _Inode | None] = {root: None}
        self._pending: list[_NameOp] = []

    # -- the file layer -------------------------------------------------------------------

    def call(
        self,
        kind: str,
        path: Path,
        epoch: int,
        length: int = 0,
        offset: int = 0,
        dirty: set[int] | None = None,
        same: bool = False,
    ) -> bool:
        """Count one call, let hooks strike; True when a hook swallowed it."""
        if epoch != self.epoch:
            raise Killed(f"{kind} {path} by a process that is dead")
        self.calls += 1
        if not self.hooks:
            return False
        seen = Call(kind, path, self.calls, length, offset, set() if dirty is None else dirty, same)
        swallowed = False
        for hook in tuple(self.hooks):
            swallowed |= hook(seen)
        return swallowed

    def room(self, inode: _Inode, end: int) -> int:
        """How far, in bytes, ``inode`` may grow towards ``end``."""
        limit = min(end, self.file_bytes)
        if self.capacity_bytes is not None and limit > inode.size:
            used = sum(node.size for node in self._names.values() if node is not None)
            limit = min(limit, inode.size + max(0, self.capacity_bytes - used))
        return limit

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> _Handle:
        found = self._names.get(path)
        if path in self._names and found is None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if found is None:
            if not create:
                self.call("open", path, self.epoch)
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            self._need_folder(path.parent)
            self.call("create", path, self.epoch)
            found = self._new_inode()
            self._change(_NameOp(path.parent, "link", path, found))
        else:
            self.call("open", path, self.epoch)
        return _Handle(self, path, found, write or create)

    def exists(self, path: Path) -> bool:
        self.call("exists", path, self.epoch)
        return path in self._names

    def mkdir(self, path: Path) -> None:
        for folder in [*self._above(path), path]:
            if folder not in self._names:
                self.call("mkdir", folder, self.epoch)
                self._change(_NameOp(folder.parent, "link", folder, None))

    def listdir(self, path: Path) -> list[str]:
        self._need_folder(path)
        self.call("listdir", path, self.epoch)
        return sorted(name.name for name in self._names if name.parent == path and name != path)

    def rename(self, source: Path, target: Path) -> None:
        inode = self._names.get(source)
        if source not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        if self.call("rename", target, self.epoch):
            return
        self._change(_NameOp(target.parent, "rename", target, inode, source))

    def unlink(self, path: Path) -> None:
        if self.call("unlink", path, self.epoch):
            return
        if path in self._names:
            self._change(_NameOp(path.parent, "unlink", path))

    def sync_folder(self, path: Path) -> None:
        if path in self.root.parents:  # outside the simulated disk, durable from the start
            return
        self._need_folder(path)
        if self.call("sync_folder", path, self.epoch):
            return
        for op in self._pending:
            if op.folder == path:
                _apply(self._durable, op)
        self._pending = [op for op in self._pending if op.folder != path]

    def lock(self, path: Path) -> _SimLock:
        self._need_folder(path.parent)
        self.call("lock", path, self.epoch)
        if path in self.locks:
            raise LockedError(f"{path.parent} is being written by another process; wait for it.")
        if path not in self._names:
            self._change(_NameOp(path.parent, "link", path, self._new_inode()))
        self.locks[path] = self.epoch
        return _SimLock(self, path)

    def is_locked(self, path: Path) -> bool:
        self.call("exists", path, self.epoch)
        return path in self.locks

    # -- the power switch ------------------------------------------------------------------

    def crash(self, fate: Fate) -> None:
        """The process dies; what was not synced survives as ``fate`` says."""
        rng = generator(fate.seed, "disk.fate")
        self.epoch += 1
        self.locks.clear()
        self._survive_names(fate, rng)
        for path in sorted(p for p, node in self._names.items() if node is not None):
            inode = self._names[path]
            assert inode is not None
            _survive_data(inode, fate, rng)
        self.lies.clear()  # what they promised is here or lost

    def kill(self) -> None:
        """The process dies but the system lives: its cache stays as it is."""
        self.epoch += 1
        self.locks.clear()

    def flip(self, path: Path, bit: int) -> None:
        """Turn over one bit of ``path`` on stable storage and in the cache."""
        inode = self._names[path]
        assert inode is not None
        mask = np.uint8(1 << (bit % 8))
        inode.cache[bit // 8] ^= mask
        sector, at = divmod(bit // 8, SECTOR)
        stable = bytearray(inode.stable.get(sector, bytes(SECTOR)))
        stable[at] ^= int(mask)
        inode.stable[sector] = bytes(stable)

    @property
    def lying(self) -> bool:
        """Whether a file that has a name is not as stable as a sync of it said."""
        return any(node in self.lies for node in self._names.values() if node is not None)

    def files(self) -> dict[Path, int]:
        """Sizes in bytes of all files."""
        return {path: node.size for path, node in self._names.items() if node is not None}

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """No hook sees the calls inside."""
        hooks, self.hooks = self.hooks, []
        try:
            yield
        finally:
            self.hooks = hooks

    def unsynced(self, path: Path) -> set[int]:
        """Numbers of the sectors of ``path`` that a crash may lose."""
        inode = self._names.get(path)
        return set() if inode is None else inode.dirty

    # -- inside ----------------------------------------------------------------------------

    def _new_inode(self) -> _Inode:
        return _Inode(_pages(self.file_bytes))

    def _need_folder(self, path: Path) -> None:
        if self._names.get(path, self) is not None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    def _change(self, op: _NameOp) -> None:
        _apply(self._names, op)
        self._pending.append(op)

    def _survive_names(self, fate: Fate, rng: np.random.Generator) -> None:
        """Each folder keeps a prefix of its unsynced changes, as a journal does."""
        folders = sorted({op.folder for op in self._pending})
        for folder in folders:
            ops = [op for op in self._pending if op.folder == folder]
            kept = int(rng.binomial(len(ops), fate.keep))
            for op in ops[:kept]:
                _apply(self._durable, op)
        self._pending.clear()
        alive = {path for path in self._durable if self._reachable(path)}
        self._names = {path: node for path, node in self._durable.items() if path in alive}
        self._durable = dict(self._names)

    def _reachable(self, path: Path) -> bool:
        return all(folder in self._durable for folder in self._above(path))

    def _above(self, path: Path) -> list[Path]:
        """The folders between the root (left out) and ``path`` (left out), outermost first."""
        return [folder for folder in reversed(path.parents) if self.root in folder.parents]


def _apply(names: dict[Path, _Inode | None], op: _NameOp) -> None:
    if op.kind == "unlink":
        names.pop(op.path, None)
        return
    if op.source is not None:
        names.pop(op.source, None)
    names[op.path] = op.inode


def _survive_data(inode: _Inode, fate: Fate, rng: np.random.Generator) -> None:
    if inode.dirty or inode.size != inode.stable_size:
        low, high = sorted((inode.stable_size, inode.size))
        size = inode.size if rng.random() < fate.keep else inode.stable_size
        if fate.torn and high > low and rng.random() < 0.5:
            size = int(rng.integers(low, high + 1))
        for sector in sorted(inode.dirty):
            if rng.random() < fate.keep:
                part = slice(sector * SECTOR, (sector + 1) * SECTOR)
                inode.stable[sector] = inode.cache[part].tobytes()
        inode.stable_size = size
    end = inode.stable_size
    inode.stable = {s: data for s, data in inode.stable.items() if s * SECTOR < end}
    if end % SECTOR and (last := inode.stable.get(end // SECTOR)) is not None:
        inode.stable[end // SECTOR] = last[: end % SECTOR].ljust(SECTOR, b"\0")
    fresh = _pages(inode.cache.size)  # old views keep the dead process's pages
    for sector, data in inode.stable.items():
        fresh[sector * SECTOR : (sector + 1) * SECTOR] = np.frombuffer(data, np.uint8)
    inode.cache, inode.size = fresh, end
    inode.dirty.clear()
