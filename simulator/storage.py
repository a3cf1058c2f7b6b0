"""The world's tree: the product's storage on a simulated disk, and what must be in it.

The tokens of a world are a function of the stream, so the right content of every byte is known
at any length: ``acknowledged <= recovered <= attempted`` and equal bytes are checked after every
crash, gists against gists made anew.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megacontext.core.tree import HashGister, Tree, TreeSpec
from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.checks.tree import check_gists, check_tokens
from megacontext.simulator.faults import SECTOR, At, Call, Fate, Killed, SimDisk
from megacontext.simulator.streams import Lives
from megacontext.traces.errors import LockedError, MegaContextError, ModelError, StorageError

__all__ = ["DIM", "KEY_DIM", "TREE", "FailingGister", "TreeSide"]

TREE = Path("/sim/tree")
DIM, KEY_DIM = 4, 2
_GIST_CHECK_TOKENS = 512
_READ_EVERY = 4
"""Commits after which a reader looks at the tree."""
_SLOT = 4096
_FIELDS = 88  # bytes of a header's numbers
_DATA_START = 2 * _SLOT
"""Two header slots come first in every ``.ctx`` file; a slot ends in the CRC-32 of the rest."""


@dataclass
class FailingGister:
    """A hash gister that can be told to fail at its n-th call."""

    checkpoint_id: str = "hash-0"
    fail_in: int = 0
    nan: bool = False
    dim: int = DIM
    key_dim: int = KEY_DIM
    left_context: int = 0

    def __post_init__(self) -> None:
        self.inner = HashGister(self.dim, self.key_dim, self.checkpoint_id, self.left_context)

    def encode_blocks(self, tokens: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._maybe(self.inner.encode_blocks(tokens, left))

    def encode_gists(self, level: int, children: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._maybe(self.inner.encode_gists(level, children))

    def _maybe(self, made: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        if self.fail_in == 0:
            return made
        self.fail_in -= 1
        if self.fail_in:
            return made
        if not self.nan:
            raise ModelError("the simulated gister failed; try again.")
        vectors = made[0].copy()
        vectors[-1, 0] = np.nan
        return vectors, made[1]


class TreeSide:
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
        self._gists_checked_at = 0
        self.watch_disk()
        self.tree = self._create()

    def _create(self) -> Tree:
        if self.disk is None:
            return Tree.create(self.spec, self.gister, now_ns=0)
        return Tree.create(self.spec, self.gister, TREE, self.disk, now_ns=0)

    def watch_disk(self) -> None:
        """From now on every header slot that is written is checked for what it may not do."""
        if self.disk is not None:
            self.disk.hooks.append(self._slot_comes_last)

    def _slot_comes_last(self, call: Call) -> bool:
        """A new header may only be written when all data before it are on stable storage."""
        if call.same:
            return False
        if call.kind == "pwrite" and call.offset < _DATA_START and ".ctx" in call.path.name:
            late = [sector for sector in call.dirty if sector >= _DATA_START // SECTOR]
            if late and not self.lying and ".lost" not in call.path.name:
                raise InvariantError(
                    "commit_order", f"a header of {call.path} before {len(late)} sectors of data"
                )
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
        if self.tree.n_tokens - self._gists_checked_at >= _GIST_CHECK_TOKENS:
            self.check()

    def _same_length(self, n_tokens: int) -> None:
        if self.tree.n_tokens != n_tokens:
            raise InvariantError("tree", f"{self.tree.n_tokens} tokens instead of {n_tokens}")

    def commit(self) -> None:
        self.tree.commit()
        self.acknowledged = self.tree.n_tokens
        if self.tree.committed_tokens != self.acknowledged:
            raise InvariantError("durability", "committed_tokens is behind a commit")
        if self.disk is not None and not self.lying:
            for path in self.disk.files():
                if path.suffix == ".ctx" and path.parent == TREE:
                    self._is_stable(path)
            self._commits += 1
            if self._commits % _READ_EVERY == 0:
                self._read_commit()

    def _read_commit(self) -> None:
        """A reader sees the commit that just returned, whole."""
        assert self.disk is not None
        with self.disk.undisturbed(), Tree.open(TREE, files=self.disk, write=False) as reader:
            if reader.n_tokens != self.acknowledged:
                raise InvariantError(
                    "reader", f"{reader.n_tokens} tokens after a commit of {self.acknowledged}"
                )
            self._reads_well(reader)

    def _reads_well(self, reader: Tree) -> None:
        """What ``reader`` has is right, and it finds nothing wrong."""
        check_tokens(reader, self.stream, "a reader")
        said = [*reader.verify(), *reader.recovery.notes]
        if said:
            raise InvariantError("reader", f"beside a sound writer it says: {said[0]}")
        self.sometimes["read_beside"] += 1

    def read_beside(self, nth: int) -> None:
        """Before the n-th changing call from now a reader opens the tree and verifies it."""
        if self.disk is None:
            return
        disk, tree = self.disk, self.tree

        def look(call: Call) -> bool:
            if tree is self.tree and not self.lying:  # else the writer is another one by now
                with disk.undisturbed(), Tree.open(TREE, files=disk, write=False) as reader:
                    self._reads_well(reader)
            return False

        disk.hooks.insert(0, At(nth, lambda call: call.changing and ".ctx" in call.path.name, look))

    def _is_stable(self, path: Path) -> None:
        """Both slots and all rows of a committed file are on stable storage."""
        assert self.disk is not None
        level = int(path.stem[3:])
        rows = self.acknowledged // self.spec.block_size**level
        wide = 4 if self.spec.dtype == "fp32" else 2
        values = KEY_DIM * 2 if path.name.startswith("KEY") else DIM * wide
        end = _DATA_START + rows * (4 if level == 0 else values)
        # The last sector may hold later rows of an earlier process, written and not committed.
        if any((sector + 1) * SECTOR <= end for sector in self.disk.unsynced(path)):
            raise InvariantError("durability", f"{path} is not synced after a commit")

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
        self.gister = new
        if self.disk is not None:
            self._gisters[self._generation() + 1] = new
        try:
            self.tree.regist(new)
        except MegaContextError:
            self.gister = before
            raise
        self.acknowledged = self.tree.n_tokens
        self.check()
        self.sometimes["regist"] += 1

    # -- breaking ----------------------------------------------------------------------------

    def close(self) -> None:
        """A clean end: closing commits."""
        self.tree.close()
        self.acknowledged = self.tree.n_tokens

    def recover(self) -> int:
        """Open what is on the disk after a crash; returns the tokens that are there.

        Raises:
            InvariantError: committed tokens are gone, bytes are wrong, or the recovery's account
                of itself is.
        """
        assert self.disk is not None
        if self.trouble is not None:
            self._recover_in_trouble(*self.trouble)
        gister, tree = self._reopen()
        self.gister, self.tree = gister, tree
        least = 0 if self.lying else self.acknowledged
        if not least <= tree.n_tokens <= self.attempted:
            raise InvariantError(
                "durability",
                f"{tree.n_tokens} tokens recovered, {self.acknowledged} were committed and "
                f"{self.attempted} attempted",
            )
        self._account(tree)
        self.check()
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
        try:
            tree = self._reopen()[1]
            self.acknowledged = max(self.acknowledged, tree.n_tokens)
        except Killed:
            self.sometimes["recovery_interrupted"] += 1
        except StorageError as error:
            if "checksum" in str(error) or "damaged" in str(error):
                raise
            self.sometimes["recovery_failed"] += 1
        finally:
            if hook in self.disk.hooks:
                self.disk.hooks.remove(hook)
        if fate is None:
            self.disk.kill()
        else:
            self.disk.crash(fate)

    def _account(self, tree: Tree) -> None:
        """What the recovery says of itself, and a full check of what it left."""
        assert self.disk is not None
        said = tree.recovery
        if tree.n_tokens < self.attempted:
            self.sometimes["recovery_dropped_tail"] += 1
        if tree.n_tokens < self.acknowledged:
            self.sometimes["lying_disk_lost_commit"] += 1
        self.sometimes[f"recovery_slot_{said.slot}"] += 1
        self.sometimes["recovery_rebuilt"] += bool(said.rebuilt_nodes)
        if said.fell_back:
            self.sometimes["recovery_fell_back"] += 1
        if tree.committed_tokens != tree.n_tokens:
            raise InvariantError(
                "recovery", f"{tree.committed_tokens} of {tree.n_tokens} committed"
            )
        if self.lying:
            return
        if said.fell_back or said.dropped_tokens:
            raise InvariantError("recovery", f"an honest disk, and yet: {said.notes[0]}")
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
        for path in self.disk.files():
            if path.parent == TREE:
                self.disk.unlink(path)
        self.acknowledged = 0
        gister = FailingGister(self.spec.gist_checkpoint)
        self.gister, self._gisters = gister, {1: gister}
        return gister, self._create()

    def flip_a_bit(self, salt: int) -> None:
        """Turn one bit over under a closed tree, look, and turn it back."""
        assert self.disk is not None
        self.close()
        sizes = {p: size for p, size in sorted(self.disk.files().items()) if p.parent == TREE}
        paths = [path for path, size in sizes.items() if size]
        path = paths[salt % len(paths)]
        bit = salt * 2654435761 % (sizes[path] * 8)
        if salt % 3 == 0:  # the fields of a header, one after the other
            bit = (salt // 3 % 2) * _SLOT * 8 + salt * 7919 % (_FIELDS * 8)
            bit %= sizes[path] * 8
        in_header = self._in_whole_slot(path, bit // 8)
        self.disk.flip(path, bit)
        try:
            with Tree.open(TREE, files=self.disk, write=False) as reader:
                found = bool(reader.verify() or reader.recovery.notes)
                if in_header and not found and not reader.recovery.damaged_slots:
                    raise InvariantError("bit_flip", f"bit {bit} of {path} hit a header unnoticed")
                whole = reader.n_tokens == self.acknowledged
                if not found:
                    check_tokens(reader, self.stream, "a flipped bit")
                    if not whole:
                        raise InvariantError("bit_flip", f"bit {bit} of {path} lost tokens")
                    check_gists(reader, self.gister.inner)
        except MegaContextError:
            found = True
        self.sometimes["bit_flip_detected" if found else "bit_flip_harmless"] += 1
        self.disk.flip(path, bit)
        trouble, self.trouble = self.trouble, None  # the process lives on, and so does its trace
        self.recover()
        self.trouble = trouble

    def _in_whole_slot(self, path: Path, byte: int) -> bool:
        """Whether ``byte`` lies in a header slot that is written and undamaged."""
        assert self.disk is not None
        if path.suffix != ".ctx" or byte >= _DATA_START:
            return False
        handle = self.disk.open(path)
        slot = handle.pread(byte // _SLOT * _SLOT, _SLOT)
        handle.close()
        return len(slot) == _SLOT and zlib.crc32(slot[:-4]).to_bytes(4, "little") == slot[-4:]

    def open_second_writer(self) -> None:
        assert self.disk is not None
        try:
            Tree.open(TREE, self.gister, files=self.disk)
        except LockedError:
            self.sometimes["second_writer_refused"] += 1
            return
        raise InvariantError("lock", "a second writer was let in")

    # -- checking ----------------------------------------------------------------------------

    def check(self) -> None:
        """Tokens equal the stream's; every complete node has the gist of its children."""
        with nullcontext() if self.disk is None else self.disk.undisturbed():
            check_tokens(self.tree, self.stream, "the tree")
            check_gists(self.tree, self.gister.inner)
        self._gists_checked_at = self.tree.n_tokens
