"""A sync fails and the system drops the pages it could not write; the process starts again without
a power cut; then power fails. What a successful commit promised in between must be there."""

import errno
import itertools
from pathlib import Path

import numpy as np
import pytest

from megacontext.core.tree import HashGister, Tree, TreeSpec
from megacontext.simulator.faults import SimDisk
from megacontext.simulator.faults.calls import Fate
from megacontext.traces.errors import MegaContextError, StorageError

FOLDER = Path("/sim/runs/today/tree")
SPEC = TreeSpec(4, 2, 4, 2, "fp16", "m", "hash-0", 4096)
GISTER = HashGister(4, 2, "hash-0")
NEXT = HashGister(4, 2, "hash-1")


def tokens(start, stop, salt=0):
    return ((np.arange(start, stop, dtype=np.uint64) * 7919 + salt) % 4096).astype(np.uint32)


class FailingSync:
    """The n-th sync of a file or folder from now fails; a file's dirty pages count as clean."""

    def __init__(self, nth):
        self.left = nth

    def __call__(self, call):
        if call.kind in ("datasync", "sync_folder"):
            self.left -= 1
            if self.left == 0:
                call.dirty.clear()
                raise OSError(errno.EIO, "Input/output error", str(call.path))
        return False


def live(disk):
    """Creation, commits and a regist; returns the tokens whose commit returned."""
    acknowledged = 0
    try:
        tree = Tree.create(SPEC, GISTER, FOLDER, disk, now_ns=0)
        for end in (8, 13, 41):
            tree.append(tokens(tree.n_tokens, end))
            tree.commit()
            acknowledged = end
        tree.regist(NEXT)
        tree.append(tokens(41, 50))
        tree.close()
        acknowledged = 50
    except StorageError:
        pass
    return acknowledged


def reopened(disk):
    try:
        return Tree.open(FOLDER, NEXT, files=disk)
    except StorageError as error:
        if "checkpoint" not in str(error):
            raise
        return Tree.open(FOLDER, GISTER, files=disk)


def open_or_create(disk):
    if disk.exists(FOLDER / "manifest.json"):
        return reopened(disk)
    return Tree.create(SPEC, GISTER, FOLDER, disk, now_ns=0)


def test_the_failed_header_sync_of_a_commit_is_made_good_by_the_next_writer():
    disk = SimDisk()
    tree = Tree.create(SPEC, GISTER, FOLDER, disk, now_ns=0)
    tree.append(tokens(0, 8))
    disk.hooks.append(FailingSync(2))  # LOD0: the data's sync works, the header's does not
    with pytest.raises(StorageError, match="open the tree again"):
        tree.commit()
    disk.hooks.clear()
    disk.kill()

    tree = Tree.open(FOLDER, GISTER, files=disk)
    assert tree.committed_tokens == tree.n_tokens == 8
    disk.crash(Fate(1, 0.0))

    assert Tree.open(FOLDER, GISTER, files=disk).n_tokens == 8


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_a_commit_after_any_failed_sync_survives_a_power_cut(power):
    struck = 0
    for nth in itertools.count(1):
        disk = SimDisk()
        hook = FailingSync(nth)
        disk.hooks.append(hook)
        acknowledged = live(disk)
        if hook.left > 0:
            break
        struck += 1
        disk.hooks.clear()
        disk.kill()

        tree = open_or_create(disk)
        start = tree.n_tokens
        assert start >= acknowledged
        tree.append(tokens(start, start + 7, salt=1))
        tree.commit()
        disk.crash(Fate(nth, power))

        with reopened(disk) as tree:
            assert tree.n_tokens == start + 7
            np.testing.assert_array_equal(tree.tokens(0, start), tokens(0, start))
            np.testing.assert_array_equal(
                tree.tokens(start, start + 7), tokens(start, start + 7, salt=1)
            )
            assert tree.verify(tree._gister) == []
    assert struck > 25


def test_a_sync_that_fails_again_while_opening_costs_nothing():
    for first, second in itertools.product(range(1, 30, 2), range(1, 14)):
        disk = SimDisk()
        disk.hooks.append(FailingSync(first))
        acknowledged = live(disk)
        disk.hooks.clear()
        disk.kill()

        disk.hooks.append(FailingSync(second))
        try:
            tree = open_or_create(disk)
            tree.append(tokens(tree.n_tokens, tree.n_tokens + 5))
            tree.commit()
        except MegaContextError:
            pass
        disk.hooks.clear()
        disk.kill()

        with open_or_create(disk) as tree:
            tree.append(tokens(tree.n_tokens, tree.n_tokens + 3))
            tree.commit()
            end = tree.n_tokens
            assert end >= acknowledged + 3
            disk.crash(Fate(first, 0.0))
            tree._writes.closed = True
        with reopened(disk) as tree:
            assert tree.n_tokens == end
            np.testing.assert_array_equal(tree.tokens(0, end), tokens(0, end))


def test_a_reader_that_verifies_between_any_two_calls_of_a_writer_finds_nothing():
    disk, looks = SimDisk(), []

    def look(call):
        if call.changing and looks is not None and call.path.parent == FOLDER:
            with disk.undisturbed():
                for reader in readers:
                    looks.append(reader.verify())
                with Tree.open(FOLDER, write=False, files=disk) as late:
                    looks.append([*late.verify(), *late.recovery.notes])
                    n = late.n_tokens
                    np.testing.assert_array_equal(late.tokens(0, n), tokens(0, n))
        return False

    tree = Tree.create(SPEC, GISTER, FOLDER, disk, now_ns=0)
    readers = [Tree.open(FOLDER, write=False, files=disk)]
    disk.hooks.append(look)
    for end in (3, 16, 61):
        tree.append(tokens(tree.n_tokens, end))
        tree.commit()
        readers.append(Tree.open(FOLDER, write=False, files=disk))
    tree.regist(NEXT)
    tree.append(tokens(61, 90))
    tree.close()

    assert len(looks) > 100
    assert [said for said in looks if said] == []


def test_levels_that_lag_without_a_writer_are_a_finding():
    disk = SimDisk()
    tree = Tree.create(SPEC, GISTER, FOLDER, disk, now_ns=0)
    tree.append(tokens(0, 8))
    disk.hooks.append(FailingSync(3))  # that of LOD1's data
    with pytest.raises(StorageError):
        tree.commit()
    disk.hooks.clear()
    with Tree.open(FOLDER, write=False, files=disk) as reader:
        assert reader.verify() == []
        disk.kill()
    with Tree.open(FOLDER, write=False, files=disk) as reader:
        assert reader.verify() == ["level 1 holds 0 nodes instead of 2."]
