"""A file system in memory with a page cache, stable storage and a power switch.

:class:`SimDisk` implements the product's file layer. Writes land in the page cache; ``datasync``
moves a file's dirty 512-byte sectors and its size to stable storage; ``sync_folder`` makes names
durable. :meth:`SimDisk.crash` keeps an arbitrary part of what was not synced, as the
:class:`Fate` says, and forgets the rest. Hooks see every call before it happens and may raise,
so a fault can strike at any call. There is no clock and no randomness but the fate's seed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from megacontext.core.rng import generator
from megacontext.simulator.faults.calls import CHANGING, Call, Fate, Hook, Killed
from megacontext.simulator.faults.inode import Inode
from megacontext.traces.errors import LockedError

__all__ = ["SimDisk"]


@dataclass(frozen=True)
class _NameOp:
    """A change of the name table that is not durable until its folder is synced."""

    folder: str
    kind: str
    name: str
    inode: Inode | None = None
    source: str | None = None


class _Handle:
    def __init__(self, disk: SimDisk, path: Path, inode: Inode, write: bool) -> None:
        self._disk, self._path, self._inode, self._write = disk, path, inode, write
        self._epoch = disk.epoch
        self._open = True

    def _call(
        self, kind: str, length: int = 0, offset: int = 0, block: np.ndarray | None = None
    ) -> bool:
        if not self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self._path))
        if kind in CHANGING and not self._write:
            raise OSError(errno.EBADF, "not open for writing", str(self._path))
        return self._disk.call(kind, self._path, self._epoch, length, offset, self._inode, block)

    def size(self) -> int:
        self._call("size")
        return self._inode.size

    def pread(self, offset: int, length: int) -> bytes:
        self._call("pread", length)
        return self._inode.cache[offset : min(offset + length, self._inode.size)].tobytes()

    def pwrite(self, offset: int, data: bytes | memoryview) -> None:
        block = np.frombuffer(data, np.uint8)
        node, end = self._inode, offset + block.size
        if self._call("pwrite", block.size, offset, block):
            return
        limit = self._disk.writable_end(node, end)
        if limit < end:  # like a real disk: what fits is written, then the error
            node.write(offset, block[: max(0, limit - offset)])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        node.write(offset, block)

    def truncate(self, size: int) -> None:
        if self._call("truncate", size):
            return
        node = self._inode
        if self._disk.writable_end(node, size) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        node.truncate(size)

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
        node.sync()

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
        self._disk, self._name, self._epoch = disk, str(path), disk.epoch

    def release(self) -> None:
        if self._disk.locks.get(self._name) == self._epoch:
            del self._disk.locks[self._name]


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
        self.locks: dict[str, int] = {}
        # Files of which a sync said what was not so; True: beyond repair by a later sync.
        self.lies: dict[Inode, bool] = {}
        # By the text of a path, which is cheaper to look up; None: a folder.
        self._names: dict[str, Inode | None] = {str(root): None}
        self._durable: dict[str, Inode | None] = {str(root): None}
        self._pending: list[_NameOp] = []
        self._outside = frozenset(map(str, root.parents))

    # -- the file layer -------------------------------------------------------------------

    def call(
        self,
        kind: str,
        path: Path,
        epoch: int,
        length: int = 0,
        offset: int = 0,
        file: Inode | None = None,
        block: np.ndarray | None = None,
    ) -> bool:
        """Count one call, let hooks strike; True when a hook swallowed it."""
        if epoch != self.epoch:
            raise Killed(f"{kind} {path} by a process that is dead")
        self.calls += 1
        if not self.hooks:
            return False
        seen = Call(kind, path, self.calls, length, offset, file, block)
        swallowed = False
        for hook in tuple(self.hooks):
            swallowed |= hook(seen)
        return swallowed

    def writable_end(self, inode: Inode, end: int) -> int:
        """How far, in bytes, ``inode`` may grow towards ``end``."""
        limit = min(end, self.file_bytes)
        if self.capacity_bytes is not None and limit > inode.size:
            used = sum(node.size for node in self._names.values() if node is not None)
            limit = min(limit, inode.size + max(0, self.capacity_bytes - used))
        return limit

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> _Handle:
        name = str(path)
        inode = self._names.get(name)
        if inode is None and name in self._names:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if inode is None:
            if not create:
                self.call("open", path, self.epoch)
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            self._need_folder(_folder(name))
            self.call("create", path, self.epoch)
            inode = Inode(self.file_bytes)
            self._change(_NameOp(_folder(name), "link", name, inode))
        else:
            self.call("open", path, self.epoch)
        return _Handle(self, path, inode, write or create)

    def exists(self, path: Path) -> bool:
        self.call("exists", path, self.epoch)
        return str(path) in self._names

    def mkdir(self, path: Path) -> None:
        for name in [*self._above(str(path)), str(path)]:
            if name not in self._names:
                self.call("mkdir", _path(name), self.epoch)
                self._change(_NameOp(_folder(name), "link", name, None))

    def listdir(self, path: Path) -> list[str]:
        self._need_folder(str(path))
        self.call("listdir", path, self.epoch)
        start = f"{path}/"
        inside = [name[len(start) :] for name in self._names if name.startswith(start)]
        return sorted(name for name in inside if "/" not in name)

    def rename(self, source: Path, target: Path) -> None:
        old, new = str(source), str(target)
        if old not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), old)
        if self.call("rename", target, self.epoch):
            return
        self._change(_NameOp(_folder(new), "rename", new, self._names[old], old))

    def unlink(self, path: Path) -> None:
        if self.call("unlink", path, self.epoch):
            return
        name = str(path)
        if name in self._names:
            self._change(_NameOp(_folder(name), "unlink", name))

    def sync_folder(self, path: Path) -> None:
        folder = str(path)
        if folder in self._outside:  # durable from the start
            return
        self._need_folder(folder)
        if self.call("sync_folder", path, self.epoch):
            return
        for op in self._pending:
            if op.folder == folder:
                _apply(self._durable, op)
        self._pending = [op for op in self._pending if op.folder != folder]

    def lock(self, path: Path) -> _SimLock:
        name = str(path)
        self._need_folder(_folder(name))
        self.call("lock", path, self.epoch)
        if name in self.locks:
            raise LockedError(f"{path.parent} is being written by another process; wait for it.")
        if name not in self._names:
            self._change(_NameOp(_folder(name), "link", name, Inode(self.file_bytes)))
        self.locks[name] = self.epoch
        return _SimLock(self, path)

    def is_locked(self, path: Path) -> bool:
        self.call("exists", path, self.epoch)
        return str(path) in self.locks

    # -- the power switch ------------------------------------------------------------------

    def crash(self, fate: Fate) -> None:
        """The process dies; what was not synced survives as ``fate`` says."""
        rng = generator(fate.seed, "disk.fate")
        self.epoch += 1
        self.locks.clear()
        self._survive_names(fate, rng)
        for name in sorted(name for name, node in self._names.items() if node is not None):
            self._node(name).survive(fate, rng)
        self.lies.clear()  # what they promised is here or lost

    def kill(self) -> None:
        """The process dies but the system lives: its cache stays as it is."""
        self.epoch += 1
        self.locks.clear()

    def flip(self, path: Path, bit: int) -> None:
        """Turn over one bit of ``path`` on stable storage and in the cache."""
        self._node(str(path)).flip(bit)

    @property
    def lying(self) -> bool:
        """Whether a file that has a name is not as stable as a sync of it said."""
        return any(node in self.lies for node in self._names.values() if node is not None)

    def files(self) -> dict[Path, int]:
        """Sizes in bytes of all files."""
        return {_path(name): node.size for name, node in self._names.items() if node is not None}

    def inside(self, folder: Path) -> list[tuple[Path, Inode]]:
        """Path and content of the files of ``folder``."""
        start = f"{folder}/"
        return [
            (_path(name), node)
            for name, node in self._names.items()
            if node is not None and name.startswith(start) and "/" not in name[len(start) :]
        ]

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """No hook sees the calls inside."""
        hooks, self.hooks = self.hooks, []
        try:
            yield
        finally:
            self.hooks = hooks

    def file(self, path: Path) -> Inode:
        """The file itself, which no hook sees."""
        return self._node(str(path))

    def unsynced_names(self) -> list[str]:
        """Changes of names that a power cut may undo, the oldest first."""
        return [f"{op.kind} {op.name}" for op in self._pending]

    # -- inside ----------------------------------------------------------------------------

    def _node(self, name: str) -> Inode:
        node = self._names[name]
        assert node is not None
        return node

    def _need_folder(self, name: str) -> None:
        if self._names.get(name, self) is not None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)

    def _change(self, op: _NameOp) -> None:
        _apply(self._names, op)
        self._pending.append(op)

    def _survive_names(self, fate: Fate, rng: np.random.Generator) -> None:
        """Each folder keeps a prefix of its unsynced changes, as a journal does."""
        for folder in sorted({op.folder for op in self._pending}):
            ops = [op for op in self._pending if op.folder == folder]
            survived = int(rng.binomial(len(ops), fate.keep))
            for op in ops[:survived]:
                _apply(self._durable, op)
        self._pending.clear()
        self._names = {
            name: node
            for name, node in self._durable.items()
            if all(folder in self._durable for folder in self._above(name))
        }
        self._durable = dict(self._names)

    def _above(self, name: str) -> list[str]:
        """The folders between the root (left out) and ``name`` (left out), outermost first."""
        root = f"{self.root}/"
        if not name.startswith(root):
            return []
        ends = [at for at, letter in enumerate(name) if letter == "/" and at >= len(root)]
        return [name[:end] for end in ends]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


_path = lru_cache(maxsize=1 << 12)(Path)  # making one costs more than most calls of a disk


def _apply(names: dict[str, Inode | None], op: _NameOp) -> None:
    if op.kind == "unlink":
        names.pop(op.name, None)
        return
    if op.source is not None:
        names.pop(op.source, None)
    names[op.name] = op.inode
