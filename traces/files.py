"""The file layer: the only way that storage and trace code touch a disk.

The simulator puts its own implementation under the same code to lose unsynced sectors, tear
tails, fill the disk or kill the process between any two calls. Writes go through ``pwrite`` and
never through a writable memory map, so that a full disk is an :class:`OSError` and not a signal.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from megacontext.traces.errors import LockedError

__all__ = [
    "OS_FILES",
    "FileHandle",
    "FileLayer",
    "Lock",
    "OsFiles",
    "is_locked",
    "lock_path",
    "real_path",
]


class Lock(Protocol):
    """An exclusive advisory lock; the system releases it when its process dies."""

    def release(self) -> None: ...


class FileHandle(Protocol):
    """One open file. Offsets and sizes are bytes; errors are :class:`OSError`."""

    def size(self) -> int: ...

    def pread(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer at the end of the file."""
        ...

    def pwrite(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of ``data`` at ``offset``, growing the file where needed."""
        ...

    def truncate(self, size: int) -> None: ...

    def datasync(self) -> None:
        """Return once data (and the size) is on stable storage (fdatasync)."""
        ...

    def view(self, offset: int, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """A read-only array over file bytes, kept coherent with later ``pwrite`` calls.

        All of it must lie within the file's present size.
        """
        ...

    def close(self) -> None: ...


class FileLayer(Protocol):
    """What storage and trace code may ask of a file system."""

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> FileHandle: ...

    def exists(self, path: Path) -> bool: ...

    def mkdir(self, path: Path) -> None: ...

    def listdir(self, path: Path) -> list[str]: ...

    def rename(self, source: Path, target: Path) -> None: ...

    def unlink(self, path: Path) -> None: ...

    def sync_folder(self, path: Path) -> None: ...

    def lock(self, path: Path) -> Lock:
        """Take the exclusive lock at ``path`` or raise :class:`LockedError` at once."""
        ...

    def is_locked(self, path: Path) -> bool:
        """Whether somebody holds the lock at ``path``; False where there is none."""
        ...


class _OsHandle:
    def __init__(self, path: Path, write: bool, create: bool) -> None:
        flags = os.O_RDWR if write else os.O_RDONLY
        if create:
            flags |= os.O_CREAT
        self._fd = os.open(path, flags | os.O_CLOEXEC, 0o644)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def pread(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def pwrite(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def datasync(self) -> None:
        os.fdatasync(self._fd)

    def view(self, offset: int, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        kind = np.dtype(dtype)
        length = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if length == 0:
            return np.empty(shape, kind)
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._fd, length + offset - start, access=mmap.ACCESS_READ, offset=start)
        flat = np.frombuffer(mapped, kind, length // kind.itemsize, offset - start)
        return flat.reshape(shape)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _OsLock:
    def __init__(self, path: Path) -> None:
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._fd)
                raise LockedError(
                    f"{path.parent} is being written by another process; wait for it or stop it."
                ) from error
            # A holder may unlink its lock file; a lock on a file without a name keeps nobody out.
            try:
                if os.path.samestat(os.fstat(self._fd), path.stat()):
                    return
            except FileNotFoundError:
                pass
            os.close(self._fd)

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OsFiles:
    """The real file system."""

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> FileHandle:
        return _OsHandle(path, write, create)

    def exists(self, path: Path) -> bool:
        return path.exists()

    def mkdir(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def listdir(self, path: Path) -> list[str]:
        return sorted(entry.name for entry in path.iterdir())

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_folder(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, path: Path) -> Lock:
        return _OsLock(path)

    def is_locked(self, path: Path) -> bool:
        return is_locked(path)


OS_FILES = OsFiles()


def real_path(path: Path) -> Path:
    """``path``, or what it points at where it is a symbolic link: a link is never replaced."""
    return path.resolve() if path.is_symlink() else path


def lock_path(path: Path) -> Path:
    """Where the writer of the trace at ``path`` holds its lock."""
    path = real_path(path)
    return path.with_name(path.name + ".lock")


def is_locked(path: Path) -> bool:
    """Whether a live process holds the lock file at ``path``; False where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
