"""The simulated disk: what survives a crash, and what does not."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from megacontext.core.rng import generator
from megacontext.simulator.faults import SECTOR, At, Fate, Killed, SimDisk
from megacontext.simulator.faults.inode import Inode
from megacontext.simulator.faults.kill import die
from megacontext.traces.errors import LockedError

ROOT = Path("/sim")
NOTHING, EVERYTHING = Fate(0, keep=0.0, torn=False), Fate(0, keep=1.0, torn=False)


def synced_file(disk: SimDisk, data: bytes = b"a" * 2000) -> Path:
    path = ROOT / "file"
    handle = disk.open(path, write=True, create=True)
    handle.pwrite(0, data)
    handle.datasync()
    disk.sync_folder(ROOT)
    return path


def content(disk: SimDisk, path: Path) -> bytes:
    handle = disk.open(path)
    return handle.pread(0, handle.size())


def test_synced_data_survive_and_unsynced_need_not() -> None:
    disk = SimDisk()
    path = synced_file(disk)
    disk.open(path, write=True).pwrite(0, b"b" * 3000)
    disk.crash(NOTHING)
    assert content(disk, path) == b"a" * 2000


def test_unsynced_data_may_survive_whole() -> None:
    disk = SimDisk()
    path = synced_file(disk)
    disk.open(path, write=True).pwrite(0, b"b" * 3000)
    disk.crash(EVERYTHING)
    assert content(disk, path) == b"b" * 3000


def test_sectors_survive_one_by_one() -> None:
    disk = SimDisk()
    path = synced_file(disk, b"a" * 64 * SECTOR)
    disk.open(path, write=True).pwrite(0, b"b" * 64 * SECTOR)
    disk.crash(Fate(3, keep=0.5, torn=False))
    sectors = [content(disk, path)[at : at + SECTOR] for at in range(0, 64 * SECTOR, SECTOR)]
    assert {sector[:1] * SECTOR for sector in sectors} == {b"a" * SECTOR, b"b" * SECTOR}
    assert all(sector in (b"a" * SECTOR, b"b" * SECTOR) for sector in sectors)


def test_a_growing_file_may_be_torn_anywhere() -> None:
    sizes = set()
    for seed in range(40):
        disk = SimDisk()
        path = synced_file(disk)
        disk.open(path, write=True).pwrite(2000, b"b" * 3000)
        disk.crash(Fate(seed, keep=0.9, torn=True))
        sizes.add(disk.files()[path])
    assert min(sizes) >= 2000
    assert max(sizes) <= 5000
    assert len(sizes) > 10


def test_a_name_needs_its_folder_synced() -> None:
    disk = SimDisk()
    disk.open(ROOT / "new", write=True, create=True).datasync()
    disk.crash(NOTHING)
    assert not disk.exists(ROOT / "new")


def test_a_rename_is_atomic_and_durable_after_the_folder_sync() -> None:
    disk = SimDisk()
    old = synced_file(disk)
    handle = disk.open(ROOT / "file.new", write=True, create=True)
    handle.pwrite(0, b"new")
    handle.datasync()
    disk.rename(ROOT / "file.new", old)
    disk.sync_folder(ROOT)
    disk.crash(NOTHING)
    assert content(disk, old) == b"new"
    assert disk.listdir(ROOT) == ["file"]


def test_a_shrunk_file_grows_back_with_zeros() -> None:
    disk = SimDisk()
    path = synced_file(disk)
    handle = disk.open(path, write=True)
    handle.truncate(100)
    handle.truncate(2000)
    handle.datasync()
    disk.crash(NOTHING)
    assert content(disk, path) == b"a" * 100 + b"\0" * 1900


def test_a_killed_process_leaves_the_cache_and_can_do_nothing_more() -> None:
    disk = SimDisk()
    path = synced_file(disk)
    handle = disk.open(path, write=True)
    handle.pwrite(0, b"b")
    disk.kill()
    assert content(disk, path) == b"b" + b"a" * 1999
    with pytest.raises(Killed):
        handle.pwrite(0, b"c")


def test_a_view_follows_later_writes_and_is_read_only() -> None:
    disk = SimDisk()
    path = synced_file(disk)
    view = disk.open(path).view(0, (500,), np.uint32)
    disk.open(path, write=True).pwrite(4, b"\1\0\0\0")
    assert view[1] == 1
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def test_a_full_disk_takes_what_fits() -> None:
    disk = SimDisk(capacity_bytes=2500)
    path = synced_file(disk)
    with pytest.raises(OSError, match="No space") as caught:
        disk.open(path, write=True).pwrite(2000, b"b" * 1000)
    assert caught.value.errno == errno.ENOSPC
    assert disk.files()[path] == 2500


def test_one_lock_at_a_time_and_a_crash_frees_it() -> None:
    disk = SimDisk()
    disk.lock(ROOT / "LOCK")
    with pytest.raises(LockedError):
        disk.lock(ROOT / "LOCK")
    disk.kill()
    disk.lock(ROOT / "LOCK").release()
    disk.lock(ROOT / "LOCK")


def test_a_hook_strikes_at_its_call() -> None:
    disk = SimDisk()
    path = synced_file(disk)
    disk.hooks.append(At(2, lambda call: call.kind == "pwrite", die))
    handle = disk.open(path, write=True)
    handle.pwrite(0, b"x")
    with pytest.raises(Killed):
        handle.pwrite(0, b"y")
    assert content(disk, path)[:1] == b"x"


def test_a_flipped_bit_is_on_the_disk_and_in_the_cache() -> None:
    disk = SimDisk()
    path = synced_file(disk, b"\0" * 600)
    disk.flip(path, 8 * 513 + 2)
    assert content(disk, path)[513] == 4
    disk.crash(NOTHING)
    assert content(disk, path)[513] == 4


def is_stable_at_length(file: Inode, end: int) -> bool:
    """Whether a power cut would leave the first ``end`` bytes, all of them compared."""
    sectors = [file.stable.get(number, bytes(SECTOR)) for number in range(-(-end // SECTOR))]
    return file.stable_size >= end and b"".join(sectors)[:end] == file.cache[:end].tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_stable_is_known_whatever_happened_before(seed: int) -> None:
    rng = generator(seed, "stable")
    file, seen = Inode(1 << 16), set()
    for _ in range(300):
        kind, at = int(rng.integers(8)), int(rng.integers(0, 12 * SECTOR))
        if kind < 3:
            file.write(at, rng.integers(0, 2, int(rng.integers(1, 3 * SECTOR)), np.uint8))
        elif kind == 3:
            file.truncate(at)
        elif kind == 4:
            file.sync()
        elif kind == 5:
            file.dirty.clear()  # a sync that failed
        elif kind == 6:
            file.flip(8 * at)
        elif rng.random() < 0.1:
            file.survive(Fate(seed), rng)
        end = int(rng.integers(0, file.size + 1))
        assert file.is_stable(end) == is_stable_at_length(file, end)
        seen.add(file.is_stable(end))
    assert seen == {True, False}
