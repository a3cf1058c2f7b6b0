"""A disk in memory that loses what was not synced, fails at a given call, or dies there."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from megacontext.core.tree import HashGister, TreeSpec
from megacontext.traces.errors import LockedError

SECTOR = 512


class Killed(BaseException):
    """The process died here; nothing of it runs after this."""


@dataclass(eq=False)
class Inode:
    # A fixed place in memory, so that views stay coherent.
    capacity: int
    data: np.ndarray = field(init=False)
    size: int = 0
    durable: bytes = b""

    def __post_init__(self) -> None:
        self.data = np.zeros(self.capacity, np.uint8)

    def crash(self, rng: np.random.Generator) -> None:
        """Each sector, and the size, is what was synced or what was written since."""
        now = self.data[: self.size].tobytes()
        if now == self.durable:
            return
        size = int(rng.choice([len(self.durable), self.size]))
        sectors = -(-size // SECTOR)
        pair = [
            np.frombuffer(content[:size].ljust(sectors * SECTOR, b"\0"), np.uint8)
            for content in (self.durable, now)
        ]
        survives = np.repeat(rng.random(sectors) < 0.5, SECTOR)
        self.replace(np.where(survives, pair[1], pair[0])[:size].tobytes())

    def replace(self, content: bytes) -> None:
        self.data = np.zeros(self.capacity, np.uint8)
        self.data[: len(content)] = np.frombuffer(content, np.uint8)
        self.size, self.durable = len(content), content


class FaultHandle:
    def __init__(self, files: FaultFiles, inode: Inode) -> None:
        self._files, self._inode = files, inode

    def size(self) -> int:
        return self._inode.size

    def pread(self, offset: int, length: int) -> bytes:
        self._files.tick("pread")
        return self._inode.data[offset : min(offset + length, self._inode.size)].tobytes()

    def pwrite(self, offset: int, data: bytes | memoryview) -> None:
        raw = bytes(data)
        self._files.tick("pwrite")
        self._inode.data[offset : offset + len(raw)] = np.frombuffer(raw, np.uint8)
        self._inode.size = max(self._inode.size, offset + len(raw))

    def truncate(self, size: int) -> None:
        self._files.tick("truncate")
        self._inode.data[size : self._inode.size] = 0
        self._inode.size = size

    def datasync(self) -> None:
        self._files.tick("datasync")
        if not self._files.lies:
            self._inode.durable = self._inode.data[: self._inode.size].tobytes()

    def view(self, offset: int, shape: tuple[int, ...], dtype: object) -> np.ndarray:
        kind = np.dtype(dtype)
        length = int(np.prod(shape)) * kind.itemsize
        assert offset + length <= self._inode.size, "a view beyond the end of the file"
        view = self._inode.data[offset : offset + length].view(kind).reshape(shape)
        view.flags.writeable = False
        return view

    def close(self) -> None:
        pass


class FaultLock:
    def __init__(self, held: set[Path], path: Path) -> None:
        if path in held:
            raise LockedError(f"{path.parent} is being written by another process; wait for it.")
        held.add(path)
        self._held, self._path = held, path

    def release(self) -> None:
        self._held.discard(self._path)


class FaultFiles:
    """``fail_at`` is the number of the call that dies or fails; ``error`` None means death."""

    def __init__(self, capacity: int = 1 << 18) -> None:
        self._capacity = capacity
        self.names: dict[Path, Inode] = {}
        self._durable_names: dict[Path, Inode] = {}
        self._journal: list[tuple[Path, Inode | None, Path | None]] = []
        self._held: set[Path] = set()
        self.calls = 0
        self.fail_at: int | None = None
        self.error: int | None = None
        self.sticky = False
        self.lies = False

    def tick(self, what: str) -> None:
        self.calls += 1
        if self.fail_at is None or self.calls < self.fail_at:
            return
        if self.error is None:
            raise Killed(what)
        if self.calls == self.fail_at or self.sticky:
            raise OSError(self.error, "No space left on device", what)

    def arm(self, after: int, error: int | None = None, sticky: bool = False) -> None:
        self.fail_at, self.error, self.sticky = self.calls + after, error, sticky

    def disarm(self) -> None:
        self.fail_at = None

    def crash(self, rng: np.random.Generator) -> None:
        """Power off and on: each unsynced sector and folder entry survives or does not.

        Folder entries survive in any combination; no file system promises their order.
        """
        self.disarm()
        for name, inode, gone in self._journal:
            if rng.random() < 0.5:
                self._apply(self._durable_names, name, inode, gone)
        self.names = dict(self._durable_names)
        for inode in set(self.names.values()):
            inode.crash(rng)
        self._journal = []
        self._held = set()

    def _change(self, name: Path, inode: Inode | None, gone: Path | None = None) -> None:
        """``name`` now is ``inode`` (None: is no more), and ``gone`` is its old name."""
        self._apply(self.names, name, inode, gone)
        self._journal.append((name, inode, gone))

    @staticmethod
    def _apply(
        names: dict[Path, Inode], name: Path, inode: Inode | None, gone: Path | None
    ) -> None:
        names.pop(gone, None)
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> FaultHandle:
        self.tick("open")
        if path not in self.names:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
            self._change(path, Inode(self._capacity))
        return FaultHandle(self, self.names[path])

    def exists(self, path: Path) -> bool:
        return path in self.names

    def mkdir(self, path: Path) -> None:
        self.tick("mkdir")

    def listdir(self, path: Path) -> list[str]:
        self.tick("listdir")
        return sorted(name.name for name in self.names if name.parent == path)

    def rename(self, source: Path, target: Path) -> None:
        self.tick("rename")
        self._change(target, self.names[source], gone=source)

    def unlink(self, path: Path) -> None:
        self.tick("unlink")
        self._change(path, None)

    def sync_folder(self, path: Path) -> None:
        self.tick("sync_folder")
        self._durable_names, self._journal = dict(self.names), []

    def lock(self, path: Path) -> FaultLock:
        self.tick("lock")
        return FaultLock(self._held, path)

    def is_locked(self, path: Path) -> bool:
        return path in self._held


@pytest.fixture
def faulty() -> FaultFiles:
    return FaultFiles()


@pytest.fixture
def new_disk() -> Callable[[], FaultFiles]:
    return FaultFiles


@pytest.fixture
def killed() -> type[BaseException]:
    return Killed


@pytest.fixture
def gister() -> HashGister:
    return HashGister(left_context=3)


@pytest.fixture
def spec(gister: HashGister) -> TreeSpec:
    return TreeSpec(
        block_size=4,
        max_levels=3,
        dim=gister.dim,
        key_dim=gister.key_dim,
        dtype="fp16",
        model="test/model",
        gist_checkpoint=gister.checkpoint_id,
        vocab_size=1000,
    )
