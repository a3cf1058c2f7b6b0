"""One writer, many readers, and a writer that is killed for real."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from megacontext.core.rng import generator
from megacontext.core.tree import HashGister, Tree
from megacontext.traces.errors import LockedError, StorageError

HISTORY = generator(0, "tokens").integers(0, 1000, 100_000, dtype=np.uint32)

WRITER = """
import sys
from pathlib import Path
import numpy as np
from megacontext.core.rng import generator
from megacontext.core.tree import HashGister, Tree

path, seed = Path(sys.argv[1]), int(sys.argv[2])
rng = generator(seed, "writer")
history = generator(0, "tokens").integers(0, 1000, 100_000, dtype=np.uint32)
tree = Tree.open(path, HashGister(left_context=3))
print(tree.n_tokens, flush=True)
while tree.n_tokens < len(history):
    n = int(rng.integers(1, 200))
    tree.append(history[tree.n_tokens : tree.n_tokens + n])
    if rng.random() < 0.3:
        tree.commit()
        print(tree.committed_tokens, flush=True)
"""


@contextmanager
def writing(path, seed):
    """A process that writes the tree at ``path``; killed at the end of the block."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield writer
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()


def kill_and_check(path, gister, rounds):
    acknowledged = 0
    for seed in range(rounds):
        with writing(path, seed) as writer:
            lines = int(generator(seed, "kill").integers(1, 25))
            for _ in range(lines):
                acknowledged = int(writer.stdout.readline() or acknowledged)
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split("\n")[:-1]
            acknowledged = int(rest[-1]) if rest else acknowledged
        with Tree.open(path, gister) as tree:
            assert tree.n_tokens >= acknowledged
            acknowledged = tree.n_tokens
            np.testing.assert_array_equal(tree.tokens(0, acknowledged), HISTORY[:acknowledged])
            assert tree.verify(gister) == []
    assert acknowledged > 0


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path, spec, gister):
    Tree.create(spec, gister, tmp_path / "tree").close()
    kill_and_check(tmp_path / "tree", gister, 3)


@pytest.mark.slow
def test_fifty_killed_writers_lose_nothing_they_acknowledged(tmp_path, spec, gister):
    Tree.create(spec, gister, tmp_path / "tree").close()
    kill_and_check(tmp_path / "tree", gister, 50)


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path, spec, gister):
    path = tmp_path / "tree"
    Tree.create(spec, gister, path).close()
    with writing(path, 0) as writer:
        writer.stdout.readline()
        with pytest.raises(LockedError, match=r"is being written by another process; wait"):
            Tree.open(path, gister)
        with pytest.raises(LockedError):
            Tree.create(spec, gister, path)
        committed = 0
        with Tree.open(path, write=False) as reader:
            while committed < 2000:
                committed = int(writer.stdout.readline())
                reader.refresh()
                n = reader.n_tokens
                assert n >= committed
                np.testing.assert_array_equal(reader.tokens(0, n), HISTORY[:n])
                assert reader.n_nodes(2) == n // 16
                expected = gister.encode_gists(2, reader.gists(1, 0, n // 16 * 4).reshape(-1, 4, 8))
                np.testing.assert_array_equal(reader.gists(2, 0, n // 16), expected[0])
    Tree.open(path, gister).close()


def test_the_lock_goes_with_the_writer(tmp_path, spec, gister):
    path = tmp_path / "tree"
    first = Tree.create(spec, gister, path)
    with pytest.raises(LockedError):
        Tree.open(path, gister)
    first.close()
    with Tree.open(path, gister), pytest.raises(LockedError):
        Tree.open(path, gister)
    with pytest.raises(StorageError, match="'x'"):
        Tree.open(path, HashGister(checkpoint_id="x"))
    Tree.open(path, gister).close()  # a refused open let go of the lock


def test_a_reader_sees_committed_tokens_only_and_after_refresh(tmp_path, spec, gister):
    path = tmp_path / "tree"
    with Tree.create(spec, gister, path) as writer:
        reader = Tree.open(path, write=False)
        writer.append(HISTORY[:100])
        assert not reader.refresh()
        assert reader.n_tokens == 0
        writer.commit()
        assert reader.n_tokens == 0
        assert reader.refresh()
        assert (reader.n_tokens, reader.n_nodes(3)) == (100, 1)
        early = reader.tokens(0, 100)
        writer.append(HISTORY[100:60_000])
        writer.commit()
        assert reader.refresh()
        np.testing.assert_array_equal(reader.tokens(0, 60_000), HISTORY[:60_000])
        np.testing.assert_array_equal(reader.gists(1, 0, 15_000), writer.gists(1, 0, 15_000))
        np.testing.assert_array_equal(early, HISTORY[:100])
    assert not reader.refresh()  # closing cut the files; nothing that was read is gone
    np.testing.assert_array_equal(reader.tokens(59_000, 60_000), HISTORY[59_000:60_000])
    for write in (lambda: reader.append([1]), reader.commit, lambda: reader.regist(gister)):
        with pytest.raises(StorageError, match="open for reading"):
            write()
    reader.close()
    with pytest.raises(StorageError, match="no open reader"):
        reader.refresh()


def test_a_reader_follows_a_regist(tmp_path, spec, gister):
    path = tmp_path / "tree"
    after = HashGister(checkpoint_id="after", key_dim=7)
    with Tree.create(spec, gister, path) as writer, Tree.open(path, write=False) as reader:
        writer.append(HISTORY[:500])
        writer.commit()
        reader.refresh()
        old = reader.gists(1, 0, 125)
        writer.regist(after)
        np.testing.assert_array_equal(reader.gists(1, 0, 125), old)
        assert reader.refresh()
        assert reader.spec == writer.spec
        np.testing.assert_array_equal(reader.keys(2, 0, 31), writer.keys(2, 0, 31))
        assert reader.verify(after) == []
