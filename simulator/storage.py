"""The world's tree: the product's storage on a simulated disk, and what must be in it.

The tokens of a world are a function of the stream, so the right content of every byte is known
at any length: ``acknowledged <= recovered <= attempted`` and equal bytes are checked after every
crash, gists against gists made anew.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import nullcontext

from megacontext.core.tree import Tree, TreeSpec
from megacontext.simulator.checks.disk import DiskRules
from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.checks.tree import check_gists, check_tokens
from megacontext.simulator.faults import At, Call, Fate, Killed, SimDisk
from megacontext.simulator.gister import FailingGister
from megacontext.simulator.keys import KeySide
from megacontext.simulator.looks import TREE, Looks
from megacontext.simulator.streams import Lives
from megacontext.traces.errors import MegaContextError, ModelError, StorageError

__all__ = ["TREE", "TreeSide"]

_GIST_CHECK_TOKENS = 512
_READ_EVERY = 4
"""Commits after which a reader looks at the tree."""


class TreeSide(Looks):
    """Creates, grows, breaks and reopens one tree.

    Attributes:
        acknowledged: tokens whose commit returned.
        sometimes: what happened, by name.
    """

    def __init__(
        self,
        spec: TreeSpec,
        stream: Lives,
        disk: SimDisk | None,
        sometimes: Counter[str],
        left_context: int = 0,
        heads: bool = False,
    ) -> None:
        self.stream, self.disk, self.sometimes = stream, disk, sometimes
        self.gister = FailingGister(spec.gist_checkpoint, left_context=left_context)
        self.spec = spec
        self.acknowledged = 0
        self.attempted = 0
        self.lying = False
        self.trouble: tuple[At, Fate | None] | None = None  # for the next recovery
        self._gisters = {1: self.gister}  # by generation: those that may be on the disk
        self._commits = 0
        self._keys_committed = 0
        self._look_at = 0  # at this read of a reader the next commit comes
        self._gists_checked_at = 0
        self._heads = heads and disk is not None
        self._rules = None if disk is None else DiskRules(disk, TREE)
        self.watch_disk()
        self.tree = self._create()
        self.keys = KeySide(self.tree, disk, sometimes) if heads and disk is not None else None

    def _create(self) -> Tree:
        if self.disk is None:
            return Tree.create(self.spec, self.gister, now_ns=0)
        assert self._rules is not None
        tree = Tree.create(self.spec, self.gister, TREE, self.disk, now_ns=0)
        self._rules.check_stable("after the tree was made")
        self._rules.check_names("after the tree was made")
        return tree

    def watch_disk(self) -> None:
        """From now on every call is checked for what a writer may not do."""
        if self.disk is not None:
            self.disk.hooks.append(self._by_the_rules)

    def _by_the_rules(self, call: Call) -> bool:
        assert self._rules is not None
        if call.changing and not self.lying:
            self._rules.at_call(call)
        return False

    # -- growing -----------------------------------------------------------------------------

    def append(self, n_tokens: int) -> None:
        """The stream's next ``n_tokens``; a failing gister must leave no trace of them."""
        start = self.tree.n_tokens
        tokens = self.stream.tokens(start, start + n_tokens)
        self.attempted = max(self.attempted, start + n_tokens)
        try:
            self.tree.append(tokens)
        except ModelError:
            self.sometimes["gist_failure"] += 1
            if self.gister.fail_in:
                raise
            self._same_length(start)
            self.check()
            self.stream.begin(start)  # what failed must leave nothing: other tokens come now
            self.tree.append(self.stream.tokens(start, start + n_tokens))
        self._same_length(start + n_tokens)
        if self.keys is not None:
            self.keys.follow()
            self._keys_committed = self._key_rows()
        if self.tree.n_tokens - self._gists_checked_at >= _GIST_CHECK_TOKENS:
            self.check()

    def _same_length(self, n_tokens: int) -> None:
        if self.tree.n_tokens != n_tokens:
            raise InvariantError("tree", f"{self.tree.n_tokens} tokens instead of {n_tokens}")

    def commit(self) -> None:
        if self._look_at and self.disk is not None and not self.lying:
            self.commit_inside_a_look(self._look_at)
        else:
            self.tree.commit()
        self._look_at = 0
        self.acknowledged = self.tree.n_tokens
        if self.tree.committed_tokens != self.acknowledged:
            raise InvariantError("durability", "committed_tokens is behind a commit")
        self._committed("after a commit")
        if self.disk is not None and not self.lying:
            self._commits += 1
            if self._commits % _READ_EVERY == 0:
                self.read_commit()

    def commit_during_read(self, nth: int) -> None:
        """The next commit comes at the n-th read of a reader."""
        self._look_at = nth

    def _committed(self, when: str) -> None:
        """What was acknowledged is what a power cut would leave."""
        if self._rules is not None and not self.lying:
            self._rules.check_rows(self.acknowledged, self.spec.block_size, when)
            self._rules.check_leftovers(when)
            self._rules.check_stable(when)
            self._rules.check_names(when)

    def regist(self, number: int) -> None:
        """New gists by another gister; the tokens and their commit stay.

        Every fourth one has the checkpoint id of the one before it, and another left context.
        """
        before = self.gister
        if number % 4 == 0:
            new = FailingGister(before.checkpoint_id, left_context=before.left_context + 1)
            self.sometimes["regist_same_checkpoint"] += 1
        else:
            new = FailingGister(f"hash-{number}", left_context=before.left_context)

        # A failure that is due moves to the new gister, which does the work now.
        new.fail_in, new.nan, before.fail_in = before.fail_in, before.nan, 0
        self.gister = new
        if self.disk is not None:
            self._gisters[self._generation() + 1] = new

        # Only a gister that failed may be refused, and then the old gists stay.
        try:
            self.tree.regist(new)
        except MegaContextError as error:
            self.gister = before
            if not isinstance(error, ModelError) or new.fail_in:
                raise
            self._refused_regist()
            return

        self.acknowledged = self.tree.n_tokens
        self._committed("after a regist")
        self.check()
        self.sometimes["regist"] += 1

    def _refused_regist(self) -> None:
        """The gister failed: the old gists stay, and nothing of the attempt does."""
        self.acknowledged = self.tree.n_tokens  # a regist commits first
        self._committed("after a regist that failed")
        self.check()
        self.sometimes["regist_failed"] += 1

    # -- breaking ----------------------------------------------------------------------------

    def close(self) -> None:
        """A clean end: closing commits."""
        if self.keys is not None:
            self.keys.close()
        self.tree.close()
        self.acknowledged = self.tree.n_tokens
        self._committed("after closing")

    def recover(self) -> int:
        """Open what is on the disk after a crash; returns the tokens that are there.

        Raises:
            InvariantError: committed tokens are gone, bytes are wrong, or the recovery's account
                of itself is.
        """
        assert self.disk is not None
        if self.trouble is not None:
            self._recover_in_trouble(*self.trouble)

        assert self._rules is not None
        rows = self._rules.gist_rows()
        gister, tree = self._reopen()
        self.gister, self.tree, self.keys = gister, tree, None

        # A disk that lied about fsync may lose everything; an honest one keeps each commit.
        least = 0 if self.lying else self.acknowledged
        if not least <= tree.n_tokens <= self.attempted:
            raise InvariantError(
                "durability",
                f"{tree.n_tokens} tokens recovered, {self.acknowledged} were committed and "
                f"{self.attempted} attempted",
            )

        self._account(tree, rows)
        if self._heads:
            self.keys = KeySide(tree, self.disk, self.sometimes)
            if not self.lying:
                self._rules.check_stable("after its keys were opened")
                self._rules.check_names("after its keys were opened")
                self.keys.check_committed(self._keys_committed)
        self._keys_committed = self._key_rows()
        self.check()

        # Lost tokens never come back: the stream draws others from there on.
        if tree.n_tokens < self.attempted or tree.n_tokens < self.acknowledged:
            self.stream.begin(tree.n_tokens)
        self.acknowledged = self.attempted = tree.n_tokens
        self.lying = self.disk.lying  # a kill leaves unsynced files in the cache
        return tree.n_tokens

    def _recover_in_trouble(self, hook: At, fate: Fate | None) -> None:
        """A recovery that is interrupted: whatever it left, the next one must do."""
        assert self.disk is not None
        self.trouble = None
        self.disk.hooks.append(hook)

        # The hook may kill the process or fail a call at any point of the recovery.
        try:
            tree = self._reopen()[1]
            self.acknowledged = max(self.acknowledged, tree.n_tokens)
            if self._heads:
                KeySide(tree, self.disk, self.sometimes)
        except Killed:
            self.sometimes["recovery_interrupted"] += 1
        except StorageError as error:
            if "checksum" in str(error) or "damaged" in str(error):
                raise
            self.sometimes["recovery_failed"] += 1
        finally:
            if hook in self.disk.hooks:
                self.disk.hooks.remove(hook)

        # What the interrupted recovery left is cut by the same kind of crash.
        if fate is None:
            self.disk.kill()
        else:
            self.disk.crash(fate)

    def _account(self, tree: Tree, rows: dict[int, int] | None) -> None:
        """What the recovery says of itself, and a full check of what it left.

        Args:
            rows: of each level by the headers before it.
        """
        assert self.disk is not None
        assert self._rules is not None
        recovery = tree.recovery
        if tree.n_tokens < self.attempted:
            self.sometimes["recovery_dropped_tail"] += 1
        if tree.n_tokens < self.acknowledged:
            self.sometimes["lying_disk_lost_commit"] += 1
        self.sometimes[f"recovery_slot_{recovery.slot}"] += 1
        self.sometimes["recovery_rebuilt"] += bool(recovery.rebuilt_nodes)
        if recovery.fell_back:
            self.sometimes["recovery_fell_back"] += 1

        # What is on the disk must be whole, whether it lied or not.
        if tree.committed_tokens != tree.n_tokens:
            raise InvariantError(
                "recovery", f"{tree.committed_tokens} of {tree.n_tokens} committed"
            )
        size = self.spec.block_size
        self._rules.check_rows(tree.n_tokens, size, "after a recovery")
        self._rules.check_leftovers("after a recovery")

        # The strict rules hold only where every fsync was honest.
        if self.lying:
            return
        self._rules.check_stable("after a recovery", keys=False)
        self._rules.check_names("after a recovery")
        if rows is not None and recovery.rebuilt_nodes != self._rules.missing(
            rows, tree.n_tokens, size
        ):
            raise InvariantError("recovery", f"it says that it made {recovery.rebuilt_nodes} gists")
        if recovery.fell_back or recovery.dropped_tokens:
            raise InvariantError("recovery", f"an honest disk, and yet: {recovery.notes[0]}")

        with self.disk.undisturbed():
            problems = tree.verify()
        if problems:
            raise InvariantError("recovery", f"verify says after it: {problems[0]}")

    def _generation(self) -> int:
        """Of the gists that the manifest means; 0 where it cannot be read."""
        assert self.disk is not None
        with self.disk.undisturbed():
            try:
                handle = self.disk.open(TREE / "manifest.json")
                return int(json.loads(handle.pread(0, 1 << 20))["generation"])
            except (OSError, ValueError, KeyError):
                return 0

    def _reopen(self) -> tuple[FailingGister, Tree]:
        assert self.disk is not None
        generation = self._generation()
        known = self._gisters.get(generation, self.gister)
        gister = FailingGister(known.checkpoint_id, left_context=known.left_context)
        try:
            tree = Tree.open(TREE, gister, files=self.disk)
        except StorageError:
            if not self.lying:
                raise
            self.sometimes["lying_disk_detected"] += 1
            return self._start_over()
        self.spec = tree.spec
        self._gisters = {generation: gister}
        return gister, tree

    def _start_over(self) -> tuple[FailingGister, Tree]:
        """The damage was noticed and cannot be repaired: the owner restores from nothing."""
        assert self.disk is not None
        for path, _ in self.disk.inside(TREE):
            self.disk.unlink(path)
        self.acknowledged = 0
        gister = FailingGister(self.spec.gist_checkpoint)
        self.gister, self._gisters = gister, {1: gister}
        return gister, self._create()

    # -- checking ----------------------------------------------------------------------------

    def check(self) -> None:
        """Tokens equal the stream's; every complete node has the gist of its children."""
        with nullcontext() if self.disk is None else self.disk.undisturbed():
            check_tokens(self.tree, self.stream, "the tree")
            check_gists(self.tree, self.gister.inner)
            if self.keys is not None:
                self.keys.check()
        self._gists_checked_at = self.tree.n_tokens
