"""HEADS.ctx on a disk that dies, lies and fills up: it costs time, never content."""

from __future__ import annotations

import errno
import itertools
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from megacontext.core.heads.store import KeyStore
from megacontext.core.tree import HashGister, Tree, TreeSpec
from megacontext.simulator.faults import SimDisk
from megacontext.simulator.faults.calls import Fate
from megacontext.simulator.keys import HashEncoder
from megacontext.traces.errors import StorageError

FOLDER = Path("/sim/tree")
TREE_ID = "ab" * 16
TOKENS = np.arange(1, 2000, dtype=np.uint32)
COMMITS = (8, 24, 40, 64)


EXPECTED = HashEncoder().encode(TOKENS[:64], 0)


def source(start: int, stop: int) -> np.ndarray:
    return TOKENS[start:stop]


class AtCall:
    """Calls ``strike`` at the n-th call from now."""

    def __init__(self, nth: int, strike) -> None:
        self.left, self.strike = nth, strike

    def __call__(self, call) -> bool:
        self.left -= 1
        if self.left == 0:
            self.strike(call)
        return False


class AtSync(AtCall):
    """Calls ``strike`` at the n-th sync of a file or folder from now."""

    def __call__(self, call) -> bool:
        return call.kind in ("datasync", "sync_folder") and super().__call__(call)


class DeadError(Exception):
    """The process is gone."""


def live(disk: SimDisk) -> int:
    """Grow and commit; returns the tokens whose keys a commit has confirmed."""
    confirmed = 0
    store = KeyStore(HashEncoder(), FOLDER, TREE_ID, disk)
    for end in COMMITS:
        store.extend(source, end)
        store.commit(end)
        confirmed = store.count
    store.close()
    return confirmed


def check(disk: SimDisk) -> int:
    """Whatever the disk holds now: what is served is right, and the rest can be made again."""
    store = KeyStore(HashEncoder(), FOLDER, TREE_ID, disk)
    served = store.count
    np.testing.assert_array_equal(store.view(0, served), EXPECTED[:served])
    store.extend(source, 64)
    np.testing.assert_array_equal(store.view(0, 64), EXPECTED)
    store.commit(64)
    store.close()
    return served


@pytest.mark.parametrize("power", [None, 0.0, 0.5, 0.9])
def test_a_process_may_die_at_any_call(power: float | None) -> None:
    for nth in itertools.count(1):
        disk = SimDisk()
        disk.mkdir(FOLDER)
        disk.sync_folder(FOLDER.parent)

        def die(call) -> None:
            raise DeadError

        hook = AtCall(nth, die)
        disk.hooks.append(hook)
        with suppress(DeadError):
            live(disk)
        disk.hooks.clear()
        if power is None:
            disk.kill()
        else:
            disk.crash(Fate(nth, power))
        check(disk)
        if hook.left > 0:
            break
    assert nth > 15


def test_what_a_commit_confirmed_survives_a_power_cut() -> None:
    disk = SimDisk()
    disk.mkdir(FOLDER)
    disk.sync_folder(FOLDER.parent)
    confirmed = live(disk)
    disk.crash(Fate(1, 0.0))
    assert check(disk) == confirmed == 64


def test_a_full_or_failing_disk_is_one_sentence() -> None:
    for code, nth in itertools.product((errno.ENOSPC, errno.EIO), range(1, 30)):
        disk = SimDisk()
        disk.mkdir(FOLDER)

        def fail(call, code=code) -> None:
            if call.kind in ("pwrite", "datasync", "truncate"):
                raise OSError(code, "the disk", str(call.path))

        disk.hooks.append(AtCall(nth, fail))
        sentences = []
        try:
            live(disk)
        except StorageError as error:
            sentences.append(str(error))
        assert all("HEADS.ctx" in sentence for sentence in sentences)
        disk.hooks.clear()
        disk.kill()
        check(disk)


def failing_sync(nth: int) -> AtSync:
    """The n-th sync from now fails, and the dirty pages count as clean from then on."""

    def fail(call) -> None:
        call.dirty.clear()
        raise OSError(errno.EIO, "Input/output error", str(call.path))

    return AtSync(nth, fail)


def test_a_header_whose_sync_failed_is_made_durable_by_the_next_store() -> None:
    disk = SimDisk()
    disk.mkdir(FOLDER)
    disk.sync_folder(FOLDER.parent)
    store = KeyStore(HashEncoder(), FOLDER, TREE_ID, disk)
    store.extend(source, 40)
    disk.hooks.append(failing_sync(2))  # the rows' sync works, the header's does not
    with pytest.raises(StorageError, match=r"HEADS\.ctx"):
        store.commit(40)
    disk.hooks.clear()
    disk.kill()

    store = KeyStore(HashEncoder(), FOLDER, TREE_ID, disk)
    assert store.count == 40
    store.commit(40)
    disk.crash(Fate(1, 0.0))
    assert check(disk) == 40


def test_a_name_whose_sync_failed_is_made_durable_by_the_next_store() -> None:
    disk = SimDisk()
    disk.mkdir(FOLDER)
    disk.sync_folder(FOLDER.parent)
    disk.hooks.append(failing_sync(2))  # the file's sync works, the folder's does not
    with pytest.raises(StorageError, match=r"HEADS\.ctx"):
        KeyStore(HashEncoder(), FOLDER, TREE_ID, disk)
    disk.hooks.clear()

    store = KeyStore(HashEncoder(), FOLDER, TREE_ID, disk)
    store.extend(source, 40)
    store.commit(40)
    disk.crash(Fate(1, 0.0))
    assert check(disk) == 40


def test_a_store_whose_sync_failed_takes_no_more_writes() -> None:
    disk = SimDisk()
    disk.mkdir(FOLDER)
    disk.sync_folder(FOLDER.parent)
    store = KeyStore(HashEncoder(), FOLDER, TREE_ID, disk)
    store.follow(source, 24, 24)
    disk.hooks.append(failing_sync(1))
    with pytest.raises(StorageError, match="open the tree again"):
        store.follow(source, 40, 40)
    disk.hooks.clear()

    # The system dropped the pages of the rows: a later sync works and stores nothing of them.
    for write in (
        lambda: store.follow(source, 64, 64),
        lambda: store.commit(64),
        lambda: store.trim(8),
    ):
        with pytest.raises(StorageError, match=r"HEADS\.ctx takes no more writes"):
            write()
    disk.crash(Fate(1, 0.0))
    assert check(disk) == 24


def test_a_flipped_bit_of_any_committed_key_is_encoded_again() -> None:
    for byte in range(8192, 8192 + 64 * 4, 7):
        disk = SimDisk()
        disk.mkdir(FOLDER)
        live(disk)
        disk.flip(FOLDER / "HEADS.ctx", 8 * byte)
        assert check(disk) < 64


def test_keys_shortened_before_their_commit_survive_a_power_cut_whole() -> None:
    for seed in range(20):
        disk = SimDisk()
        disk.mkdir(FOLDER)
        disk.sync_folder(FOLDER.parent)
        store = KeyStore(HashEncoder(), FOLDER, TREE_ID, disk)
        store.extend(source, 64)
        store.trim(40)
        disk.crash(Fate(seed, 0.3))
        assert check(disk) == 40


def test_keys_of_tokens_that_the_tree_lost_are_forgotten_at_once(tmp_path: Path) -> None:
    spec = TreeSpec(4, 2, 4, 2, "fp16", "m", "hash", 4096)
    gister = HashGister(4, 2, "hash")
    with Tree.create(spec, gister, tmp_path / "tree") as tree:
        tree.append(TOKENS[:24])
        tree.commit()
        older = {path.name: path.read_bytes() for path in tree.folder_path.iterdir()}
        tree.append(TOKENS[24:64])
        tree.commit()
        store = KeyStore.beside(HashEncoder(), tree)
        store.follow(tree.tokens, 64, 64)
        assert store.count == 64
        store.close()

    # The folder is put back as it was; only the keys, a cache, are not.
    for name, content in older.items():
        (tmp_path / "tree" / name).write_bytes(content)
    with Tree.open(tmp_path / "tree", gister) as tree:
        store = KeyStore.beside(HashEncoder(), tree)
        tree.append(TOKENS[200:240])
        store.follow(tree.tokens, 64, 24)
        expected = HashEncoder().encode(np.array(tree.tokens(0, 64)), 0)
        np.testing.assert_array_equal(store.view(0, 64), expected)
        store.close()


def test_newest_keys_are_not_those_of_a_longer_history_before() -> None:
    store = KeyStore(HashEncoder())
    store.newest(source, 13)
    store.trim(5)
    other = np.concatenate([TOKENS[:5], TOKENS[100:108]])
    newest = store.newest(lambda start, stop: other[start:stop], 13)
    np.testing.assert_array_equal(newest, HashEncoder().encode(other, 0))
