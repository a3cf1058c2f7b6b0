"""Whatever dies or fails in between: committed tokens stay, and gists never mix."""

import errno
import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megacontext.core.rng import generator
from megacontext.core.tree import HashGister, Tree, regist
from megacontext.traces.errors import MegaContextError, StorageError

FOLDER = Path("/disk/tree")
NEXT = HashGister(checkpoint_id="hash-2", key_dim=6, left_context=3)


def tokens(start, stop):
    return (np.arange(start, stop, dtype=np.uint32) * 7919) % 1000


class Script:
    """A short life of a tree; remembers what was attempted and acknowledged."""

    def __init__(self, files, spec, gister):
        self.files, self.spec, self.gister = files, spec, gister
        self.created = False
        self.attempted = self.acknowledged = 0
        self.tree = None

    def run(self):
        self.tree = tree = Tree.create(self.spec, self.gister, FOLDER, self.files, now_ns=0)
        self.created = True
        self._grow(tree, 1, 70)
        tree.regist(NEXT)
        self._grow(tree, 5, 3, 90)
        tree.close()
        with Tree.open(FOLDER, NEXT, files=self.files) as tree:
            self.tree = tree
            self._grow(tree, 33)

    def _grow(self, tree, *lengths):
        for length in lengths:
            self.attempted += length
            tree.append(tokens(self.attempted - length, self.attempted))
            tree.commit()
            self.acknowledged = self.attempted


def reopen(files, gister):
    """Open with the checkpoint that the manifest names, as a session would."""
    manifest = json.loads(files.open(FOLDER / "manifest.json").pread(0, 1 << 20))
    return Tree.open(FOLDER, gister if manifest["gist_checkpoint"] == "hash" else NEXT, files=files)


def check_recovered(files, script):
    if FOLDER / "manifest.json" not in files.names:
        assert not script.created
        Tree.create(script.spec, script.gister, FOLDER, files).close()
        return
    with reopen(files, script.gister) as tree:
        result = tree.n_tokens
        assert script.acknowledged <= result <= script.attempted
        assert tree.committed_tokens == result
        np.testing.assert_array_equal(tree.tokens(0, result), tokens(0, result))
        assert tree.verify(tree._gister) == []
        assert not [name for name in files.names if name.name.endswith(".new")]
        tree.append(tokens(result, result + 21))
        tree.commit()
        assert tree.verify(tree._gister) == []
    with Tree.open(FOLDER, files=files, write=False) as reader:
        assert reader.n_tokens == result + 21


def count_calls(files, spec, gister):
    Script(files, spec, gister).run()
    return files.calls


def test_a_kill_between_any_two_calls_loses_nothing_committed(new_disk, killed, spec, gister):
    calls = count_calls(new_disk(), spec, gister)
    assert calls > 150
    for n in range(1, calls + 1):
        files = new_disk()
        script = Script(files, spec, gister)
        files.arm(n)
        with pytest.raises(killed):
            script.run()
        files.crash(generator(n, "crash"))
        check_recovered(files, script)


def test_a_kill_during_recovery_is_recovered_from(new_disk, killed, spec, gister):
    calls = count_calls(new_disk(), spec, gister)
    for n in range(40, calls, 11):
        for again in range(1, 60, 7):
            files = new_disk()
            script = Script(files, spec, gister)
            files.arm(n)
            with pytest.raises(killed):
                script.run()
            files.crash(generator(n, "crash"))
            if FOLDER / "manifest.json" not in files.names:
                continue
            files.arm(again)
            try:
                reopen(files, gister).close()
            except killed:
                files.crash(generator(n, "crash", again))
            files.disarm()
            check_recovered(files, script)


@contextmanager
def suppress_storage_error():
    """A failing call may hit a place where nothing is lost by going on (cutting off slack)."""
    caught = []
    try:
        yield caught
    except StorageError as error:
        caught.append(error)
        sentence = str(error)
        assert "No space left" in sentence, sentence
        assert "\n" not in sentence


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("sticky", [False, True])
def test_a_failing_call_is_one_sentence_and_loses_nothing(new_disk, spec, gister, code, sticky):
    calls = count_calls(new_disk(), spec, gister)
    failures = 0
    for n in range(1, calls + 1, 3 if sticky else 1):
        files = new_disk()
        script = Script(files, spec, gister)
        files.arm(n, code, sticky)
        with suppress_storage_error() as caught:
            script.run()
        failures += bool(caught)
        if script.tree is not None and script.tree._writes.stopped:
            for write in (lambda t: t.append([1]), lambda t: t.commit()):
                with pytest.raises(StorageError, match="takes no more writes"):
                    write(script.tree)
            at = script.tree.n_tokens
            np.testing.assert_array_equal(script.tree.tokens(0, at), tokens(0, at))
        files.crash(generator(n, "crash"))
        check_recovered(files, script)
    assert failures > 50


def test_closing_after_an_error_commits_nothing_and_frees_the_lock(faulty, spec, gister):
    tree = Tree.create(spec, gister, FOLDER, faulty)
    tree.append(tokens(0, 50))
    tree.commit()
    tree.append(tokens(50, 60))
    faulty.arm(1, errno.EIO)
    with pytest.raises(StorageError):
        tree.commit()
    tree.close()
    with Tree.open(FOLDER, gister, files=faulty) as again:
        assert 50 <= again.n_tokens <= 60


def test_the_uncommitted_tail_is_lost_and_only_that(faulty, spec, gister):
    tree = Tree.create(spec, gister, FOLDER, faulty)
    tree.append(tokens(0, 50))
    tree.commit()
    tree.append(tokens(50, 80))
    assert (tree.n_tokens, tree.committed_tokens) == (80, 50)
    faulty.crash(generator(1, "crash"))
    with Tree.open(FOLDER, gister, files=faulty) as again:
        assert again.n_tokens == 50


def test_levels_that_lag_are_rebuilt_with_progress(faulty, killed, spec, gister):
    tree = Tree.create(spec, gister, FOLDER, faulty)
    tree.append(tokens(0, 900))
    faulty.arm(5)  # LOD0: sync, slot, sync; then LOD1's sync
    with pytest.raises(killed):
        tree.commit()
    faulty.crash(generator(2, "crash"))
    with Tree.open(FOLDER, write=False, files=faulty) as reader:
        assert reader.n_tokens == 3  # the longest history of which every node exists
        assert reader.n_nodes(1) == 0
    with (
        Tree.open(FOLDER, files=faulty) as ungisted,
        pytest.raises(StorageError, match="without a gister"),
    ):
        ungisted.append([1])
    seen = []
    with Tree.open(
        FOLDER, gister, files=faulty, progress=lambda done, total: seen.append((done, total))
    ) as tree:
        assert tree.n_tokens == 900
        assert tree.recovery.rebuilt_nodes == 225 + 56 + 14
        assert tree.verify(gister) == []
    assert seen[-1] == (295, 295)


def test_a_lagging_tree_can_be_given_another_gister(faulty, killed, spec, gister):
    tree = Tree.create(spec, gister, FOLDER, faulty)
    tree.append(tokens(0, 900))
    faulty.arm(5)
    with pytest.raises(killed):
        tree.commit()
    faulty.crash(generator(2, "crash"))
    with Tree.open(FOLDER, files=faulty) as tree:
        tree.regist(NEXT)
        assert tree.n_tokens == 900
        assert tree.verify(NEXT) == []


def test_a_lying_sync_falls_back_to_the_commit_before(faulty, spec, gister):
    tree = Tree.create(spec, gister, FOLDER, faulty)
    for end in (40, 80):
        tree.append(tokens(end - 40, end))
        tree.commit()
    inode = faulty.names[FOLDER / "LOD0.ctx"]
    before = inode.durable
    tree.append(tokens(80, 120))
    tree.commit()
    # The slot reached the disk, the data did not.
    inode.replace(inode.data[:8192].tobytes() + before[8192:])
    faulty.crash(generator(3, "crash"))
    with Tree.open(FOLDER, write=False, files=faulty) as reader:
        assert reader.n_tokens == 80
        assert reader.verify(gister) != []
    with Tree.open(FOLDER, gister, files=faulty) as tree:
        assert tree.n_tokens == 80
        assert tree.recovery.fell_back == ("LOD0.ctx",)
        assert tree.recovery.dropped_tokens == 40
        assert tree.verify(gister) == []
        kept = faulty.open(FOLDER / "LOD0.ctx.lost4").pread(0, 1000)
        assert len(kept) == 160
        tree.append(tokens(0, 100))
    with Tree.open(FOLDER, gister, files=faulty) as tree:
        assert tree.recovery.notes == ()
        assert tree.n_tokens == 180
        assert tree.verify(gister) == []


def test_a_kill_in_the_repair_of_a_fall_back_never_mixes_gists(new_disk, killed, spec, gister):
    for n in range(1, 120):
        files = new_disk()
        tree = Tree.create(spec, gister, FOLDER, files)
        for end in (40, 80, 120):
            before = files.names[FOLDER / "LOD0.ctx"].durable
            tree.append(tokens(end - 40, end))
            tree.commit()
        inode = files.names[FOLDER / "LOD0.ctx"]
        inode.replace(inode.data[:8192].tobytes() + before[8192:])
        files.crash(generator(3, "crash"))
        files.arm(n)
        try:
            with Tree.open(FOLDER, gister, files=files) as tree:
                tree.append(tokens(500, 560))
        except killed:
            files.crash(generator(n, "crash"))
        files.disarm()
        with Tree.open(FOLDER, gister, files=files) as tree:
            assert tree.n_tokens in (80, 140)
            np.testing.assert_array_equal(tree.tokens(0, 80), tokens(0, 80))
            assert tree.verify(gister) == []


def test_a_failed_creation_can_be_repeated(new_disk, killed, spec, gister):
    for n in range(1, 60):
        files = new_disk()
        files.arm(n, errno.ENOSPC)
        with pytest.raises(StorageError):
            Tree.create(spec, gister, FOLDER, files)
        files.disarm()
        if FOLDER / "manifest.json" in files.names:
            Tree.open(FOLDER, gister, files=files).close()
            break
        Tree.create(spec, gister, FOLDER, files).close()
    else:
        pytest.fail("creation never came as far as the manifest")


def test_a_kill_in_a_regist_under_the_same_id_leaves_old_or_new_gists(
    new_disk, killed, spec, gister
):
    retrained = replace(gister, left_context=0)  # other gists, and someone kept the id
    outcomes = set()
    for n in range(1, 120):
        files = new_disk()
        tree = Tree.create(spec, gister, FOLDER, files)
        tree.append(tokens(0, 200))
        tree.commit()
        files.arm(n)
        try:
            tree.regist(retrained)
        except killed:
            files.crash(generator(n, "crash"))
        else:
            break
        with Tree.open(FOLDER, gister, files=files) as tree:
            assert tree.recovery.notes == ()
            old, new = tree.verify(gister), tree.verify(retrained)
            assert (old == []) != (new == [])
            outcomes.add(new == [])
    assert outcomes == {False, True}


class BrokenGister(HashGister):
    def encode_gists(self, level, children):
        raise RuntimeError("out of memory")


def test_a_gister_that_fails_in_regist_leaves_the_old_gists(faulty, spec, gister):
    with Tree.create(spec, gister, FOLDER, faulty) as tree:
        tree.append(tokens(0, 200))
        with pytest.raises(RuntimeError):
            tree.regist(BrokenGister(checkpoint_id="broken"))
        assert not [name for name in faulty.names if name.name.endswith(".new")]
        tree.append(tokens(200, 300))
        assert tree.verify(gister) == []
        assert tree.spec.gist_checkpoint == "hash"


def test_regist_repairs_gist_files_whatever_their_state(new_disk, spec, gister):
    for harm in ("missing", "headers", "short", "foreign"):
        files = new_disk()
        with Tree.create(spec, gister, FOLDER, files) as tree:
            tree.append(tokens(0, 300))
        path = FOLDER / "LOD2.ctx"
        inode = files.names[path]
        if harm == "missing":
            del files.names[path]
        elif harm == "headers":
            inode.data[:8192] = 0
        elif harm == "short":
            inode.size = 8200
        else:
            files.names[path] = files.names[FOLDER / "LOD1.ctx"]
        with pytest.raises(StorageError, match="regist"):
            Tree.open(FOLDER, gister, files=files)
        regist(FOLDER, gister, files=files)
        with Tree.open(FOLDER, gister, files=files) as tree:
            assert tree.n_tokens == 300
            assert tree.verify(gister) == []


def test_a_regist_with_vectors_of_another_width_is_refused(faulty, spec, gister):
    tree = Tree.create(spec, gister, FOLDER, faulty)
    with pytest.raises(MegaContextError, match="gists of 9 values"):
        tree.regist(replace(gister, dim=9, checkpoint_id="wide"))
