"""How others look at a simulated tree: readers beside its writer, a second writer, and whoever
opens it after a bit turned over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from contextlib import closing
from pathlib import Path

from megacontext.core.tree import Tree, TreeSpec
from megacontext.simulator.checks.disk import (
    DATA_START,
    FIELD_BYTES,
    SLOT_BYTES,
    serving_slot,
    sound_slots,
)
from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.checks.tree import check_gists, check_tokens
from megacontext.simulator.faults import At, Call, Fate, SimDisk
from megacontext.simulator.gister import FailingGister
from megacontext.simulator.keys import HEADS_FILE, KeySide
from megacontext.simulator.streams import Lives
from megacontext.traces.errors import LockedError, MegaContextError

__all__ = ["TREE", "Looks"]

TREE = Path("/sim/tree")


class Looks(ABC):
    """Base of the tree's side of a world; the attributes are that side's."""

    stream: Lives
    disk: SimDisk | None
    sometimes: Counter[str]
    gister: FailingGister
    spec: TreeSpec
    tree: Tree
    keys: KeySide | None
    acknowledged: int
    _heads: bool
    lying: bool
    _keys_committed: int  # keys that the header counts; they may not be lost
    trouble: tuple[At, Fate | None] | None

    @abstractmethod
    def close(self) -> None:
        """A clean end."""

    @abstractmethod
    def recover(self) -> int:
        """Open again what is on the disk."""

    # -- a reader beside the writer ------------------------------------------------------------

    def read_commit(self) -> None:
        """A reader sees the commit that just returned, whole."""
        assert self.disk is not None
        with self.disk.undisturbed(), Tree.open(TREE, files=self.disk, write=False) as reader:
            if reader.n_tokens != self.acknowledged:
                raise InvariantError(
                    "reader", f"{reader.n_tokens} tokens after a commit of {self.acknowledged}"
                )
            self._reads_well(reader)

    def read_during_write(self, nth: int) -> None:
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

    def commit_inside_a_look(self, nth: int) -> None:
        """The writer commits at the n-th read of a reader that refreshes and verifies."""
        assert self.disk is not None
        disk, hooks, tree = self.disk, self.disk.hooks, self.tree
        before = tree.committed_tokens

        def commit(call: Call) -> bool:
            disk.hooks = hooks  # the writer's calls meet what they always meet
            try:
                tree.commit()
            finally:
                disk.hooks = []
            return False

        with disk.undisturbed(), closing(Tree.open(TREE, files=disk, write=False)) as reader:
            disk.hooks = [At(nth, lambda call: call.kind == "pread", commit)]
            reader.refresh()
            seen = reader.n_tokens
            if not before <= seen <= tree.n_tokens:
                raise InvariantError("reader", f"{seen} tokens, {before} are committed")
            self._reads_well(reader)
        if tree.committed_tokens == before and tree.n_tokens > before:
            tree.commit()  # the reader asked too little
        self.sometimes["commit_inside_a_look"] += 1

    def _reads_well(self, reader: Tree) -> None:
        """What ``reader`` has is right, and it finds nothing wrong."""
        check_tokens(reader, self.stream, "a reader")
        problems = [*reader.verify(), *reader.recovery.notes]
        if problems:
            raise InvariantError("reader", f"beside a sound writer it says: {problems[0]}")
        self.sometimes["read_beside"] += 1

    def open_second_writer(self) -> None:
        assert self.disk is not None
        try:
            Tree.open(TREE, self.gister, files=self.disk)
        except LockedError:
            self.sometimes["second_writer_refused"] += 1
            return
        raise InvariantError("lock", "a second writer was let in")

    # -- a bit that turned over ----------------------------------------------------------------

    def flip_a_bit(self, salt: int) -> None:
        """Turn one bit over under a closed tree, look, and turn it back."""
        assert self.disk is not None
        self.close()
        sizes = {path: file.size for path, file in sorted(self.disk.inside(TREE))}
        paths = [path for path, size in sizes.items() if size]
        path = paths[salt % len(paths)]
        bit = salt * 2654435761 % (sizes[path] * 8)
        if salt % 3 == 0:  # the fields of a header, one after the other
            bit = (salt // 3 % 2) * SLOT_BYTES * 8 + salt * 7919 % (FIELD_BYTES * 8)
            bit %= sizes[path] * 8
        newest = self._last_commit(path)
        if salt % 3 == 1 and newest:
            bit = newest.start * 8 + salt * 7919 % (len(newest) * 8)
        if path.name == HEADS_FILE:
            detected = self._look_at_keys(path, bit)
            self._keys_committed = self._key_rows()  # damaged ones are encoded again later
        else:
            detected = self._look_at_tree(path, bit)
        self.sometimes["bit_flip_detected" if detected else "bit_flip_harmless"] += 1

        trouble, self.trouble = self.trouble, None  # the process lives on, and so does its trace
        self.recover()
        self.trouble = trouble

    def _look_at_tree(self, path: Path, bit: int) -> bool:
        """Whether a reader notices the bit; raises where it believes something wrong."""
        assert self.disk is not None
        in_header = self._in_sound_slot(path, bit // 8)
        in_commit = bit // 8 in self._last_commit(path)
        self.disk.flip(path, bit)

        # Opening notices what lies in the last commit, a full check everything else.
        try:
            with Tree.open(TREE, files=self.disk, write=False) as reader:
                if in_commit and not reader.recovery.notes:
                    raise InvariantError(
                        "bit_flip", f"bit {bit} of {path} is in the last commit, which was opened"
                    )
                detected = bool(reader.verify() or reader.recovery.notes)
                if in_header and not detected and not reader.recovery.damaged_slots:
                    raise InvariantError("bit_flip", f"bit {bit} of {path} hit a header unnoticed")

                # What nobody notices must have done no harm.
                if not detected:
                    check_tokens(reader, self.stream, "a flipped bit")
                    if reader.n_tokens != self.acknowledged:
                        raise InvariantError("bit_flip", f"bit {bit} of {path} lost tokens")
                    check_gists(reader, self.gister.inner)
        except MegaContextError:
            detected = True
        finally:
            self.disk.flip(path, bit)
        return detected

    def _look_at_keys(self, path: Path, bit: int) -> bool:
        """Whether a flip in the key file costs keys; what is served is right in any case.

        What the store writes then, it writes over the damage; nothing is turned back.
        """
        assert self.disk is not None
        before = serving_slot(self.disk.file(path))
        self.disk.flip(path, bit)
        with Tree.open(TREE, self.gister, files=self.disk) as tree:
            keys = KeySide(tree, self.disk, self.sometimes)
            keys.check()
            detected = before is not None and keys.store.count < before.count
            keys.close()
        return detected

    def _key_rows(self) -> int:
        """Keys that the header of the key file counts."""
        assert self.disk is not None
        slot = serving_slot(self.disk.file(TREE / HEADS_FILE)) if self._heads else None
        return 0 if slot is None else slot.count

    def _last_commit(self, path: Path) -> range:
        """Bytes of the rows whose checksum opening compares; empty where there are none."""
        assert self.disk is not None
        slot = serving_slot(self.disk.file(path)) if path.suffix == ".ctx" else None
        return range(0) if slot is None else slot.last_commit

    def _in_sound_slot(self, path: Path, byte: int) -> bool:
        """Whether ``byte`` lies in a header slot that is written and undamaged."""
        assert self.disk is not None
        if path.suffix != ".ctx" or byte >= DATA_START:
            return False
        file = self.disk.file(path)
        return byte // SLOT_BYTES in {slot.number for slot in sound_slots(file)}
