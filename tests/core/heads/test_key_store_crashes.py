"""HEADS.ctx on a disk that dies, lies and fills up: it costs time, never content."""

from __future__ import annotations

import errno
import itertools
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from megacontext.core.heads.calibration import HeadsCalibration
from megacontext.core.heads.store import KeyStore
from megacontext.simulator.faults import SimDisk
from megacontext.simulator.faults.calls import Fate
from megacontext.traces.errors import StorageError

FOLDER = Path("/sim/tree")
TREE_ID = "ab" * 16
TOKENS = np.arange(1, 2000, dtype=np.uint32)
COMMITS = (8, 24, 40, 64)


class HashEncoder:
    """Keys that show which token they are of, and how much context was read before it."""

    calibration = HeadsCalibration(
        model="m",
        heads=((0, 0),),
        key_heads=((0, 0),),
        offset=np.zeros((1, 4), np.float32),
        scale=np.ones((1, 4), np.float32),
        chunk=8,
        left=4,
    )

    def encode(self, tokens: np.ndarray, start: int) -> np.ndarray:
        own = tokens[start:].astype(np.int64)
        return np.stack([own % 101, own // 101, own % 7, own * 0 + 3], axis=1).astype(np.int8)

    def encode_chunks(self, tokens: np.ndarray, first: int) -> np.ndarray:
        return self.encode(tokens, min(self.calibration.left, first))


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
