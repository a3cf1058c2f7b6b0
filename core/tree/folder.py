"""The folder of a tree: its lock, its files by generation, and how a generation is published.

New files are written under ``NAME.new``, synced, and become part of the tree when a manifest that
names their generation replaces the old one; only then are they renamed over their predecessors.
``create`` and ``regist`` both go this way, so a crash between any two calls leaves the old state
or the new one: whoever opens the tree next takes, of ``NAME`` and ``NAME.new``, the file that
the manifest means.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from megacontext.core.tree.codec import CODES
from megacontext.core.tree.ctxfile import CtxFile, peek
from megacontext.core.tree.header import Header, Kind
from megacontext.core.tree.level import KEY_DTYPE, Level
from megacontext.core.tree.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from megacontext.core.tree.spec import TreeSpec
from megacontext.traces.errors import StorageError
from megacontext.traces.files import FileLayer, Lock

__all__ = ["LOCK", "TreeFolder"]

LOCK = "LOCK"
_NEW = ".new"
_TOKENS_FIX = "restore it from a backup of this folder"
_GISTS_FIX = "rebuild the gists with regist"


class TreeFolder:
    """Files and manifest of one tree on disk."""

    def __init__(self, files: FileLayer, path: Path, manifest: Manifest) -> None:
        self.files = files
        self.path = path
        self.manifest = manifest
        self.lock: Lock | None = None

    def take_lock(self) -> None:
        """Become the one writer.

        Raises:
            LockedError: another process is.
        """
        self.lock = self.files.lock(self.path / LOCK)

    def is_locked(self) -> bool:
        """Whether a writer is at work."""
        return self.files.is_locked(self.path / LOCK)

    def release_lock(self) -> None:
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    @classmethod
    def create(cls, files: FileLayer, path: Path, manifest: Manifest) -> TreeFolder:
        """A folder, new or without a tree, locked; nothing of the tree is in it yet.

        Raises:
            StorageError: it already holds a tree or files of one.
        """
        _make_durable(files, path)
        folder = cls(files, path, manifest)
        folder.take_lock()
        try:
            names = files.listdir(path)
            if MANIFEST in names:
                raise StorageError(f"{path} already holds a tree; open it or name another folder.")
            taken = [name for name in names if name.endswith(".ctx")]
            if taken:
                raise StorageError(
                    f"{path} holds {taken[0]} but no {MANIFEST}; restore the manifest or name "
                    f"another folder."
                )
            folder.discard_new()  # of a creation that was not finished
        except BaseException:
            folder.release_lock()
            raise
        return folder

    @classmethod
    def find(cls, files: FileLayer, path: Path) -> TreeFolder:
        """The tree at ``path``, not locked.

        Raises:
            StorageError: there is none.
        """
        return cls(files, path, read_manifest(files, path))

    def reload(self) -> None:
        """Read the manifest again."""
        self.manifest = read_manifest(self.files, self.path)

    def new_tokens(self) -> CtxFile:
        return self._new("LOD0.ctx", self._header("LOD0.ctx", self.manifest))

    def new_levels(self, manifest: Manifest) -> list[Level]:
        """Empty gist and key files of ``manifest``'s generation, not yet part of the tree."""
        spec = manifest.spec
        files: list[CtxFile] = []
        try:
            for name in manifest.files[1:]:
                files.append(self._new(name, self._header(name, manifest)))
        except BaseException:
            for file in files:
                file.close()
            raise
        return _levels(spec, files)

    def publish(self, manifest: Manifest) -> None:
        """Make the new files, complete and synced, the tree's: the manifest is the commit point."""
        self.files.sync_folder(self.path)
        write_manifest(self.files, self.path, manifest)
        self.manifest = manifest
        self.adopt_new()

    def adopt_new(self) -> None:
        """Rename the new files that the manifest means; remove those of an abandoned attempt.

        The folder is synced in any case: whoever was here before may have died, or failed, between
        a rename and its sync.
        """
        names = set(self.files.listdir(self.path))
        for name in self.manifest.files:
            new = name + _NEW
            if new not in names:
                continue
            if self._is_ours(name, new):
                self.files.rename(self.path / new, self.path / name)
            else:
                self.files.unlink(self.path / new)
        if MANIFEST + _NEW in names:
            self.files.unlink(self.path / (MANIFEST + _NEW))
        self.files.sync_folder(self.path)

    def discard_new(self) -> None:
        """Remove the files of an attempt that failed before it was published."""
        for name in self.files.listdir(self.path):
            if name.endswith(".ctx" + _NEW):
                self.files.unlink(self.path / name)

    def open_tokens(self, write: bool) -> CtxFile:
        return self._open("LOD0.ctx", write)

    def open_levels(self, write: bool) -> list[Level]:
        """All gist and key files of the manifest's generation, which a reader may find raised."""
        while True:
            try:
                return self._open_levels(write)
            except StorageError:
                before = self.manifest
                self.reload()
                if self.manifest == before:
                    raise

    def _open_levels(self, write: bool) -> list[Level]:
        opened: list[CtxFile] = []
        try:
            for name in self.manifest.files[1:]:
                opened.append(self._open(name, write))
        except BaseException:
            for file in opened:
                file.close()
            raise
        return _levels(self.manifest.spec, opened)

    def keep_lost(self, file: CtxFile, entries: int) -> str:
        """Copy what is left of ``entries`` lost ones before new ones overwrite them."""
        name = f"{file.path.name}.lost{file.header.sequence + 1}"
        handle = self.files.open(self.path / name, write=True, create=True)
        try:
            handle.truncate(0)
            handle.pwrite(0, file.beyond(entries))
            handle.datasync()
        finally:
            handle.close()
        self.files.sync_folder(self.path)
        return name

    def _new(self, name: str, header: Header) -> CtxFile:
        return CtxFile.create(self.files, self.path / (name + _NEW), header)

    def _is_ours(self, name: str, create: str) -> bool:
        """Whether the file ``create`` is what the manifest means by ``name``."""
        header = peek(self.files, self.path / create)
        return header is not None and not self._mismatch(name, header)

    def _open(self, name: str, write: bool) -> CtxFile:
        fix = _TOKENS_FIX if name == "LOD0.ctx" else _GISTS_FIX
        path = self.path / name
        # A writer may be renaming the new file just now, so look for the plain name once more.
        for candidate in (name, name + _NEW, name):
            if self._is_ours(name, candidate):
                file = CtxFile.open(self.files, self.path / candidate, write, fix)
                problem = self._mismatch(name, file.header)
                if not problem:
                    return file
                file.close()
        if not self.files.exists(path):
            raise StorageError(f"{path} is missing; {fix}.")
        file = CtxFile.open(self.files, path, write=False, fix=fix)
        file.close()
        raise StorageError(f"{path} {self._mismatch(name, file.header)}; {fix}.")

    def _mismatch(self, name: str, have: Header) -> str:
        """What in a header contradicts the manifest; empty if nothing does."""
        expected = self._header(name, self.manifest)
        if have.tree_id != expected.tree_id:
            return f"belongs to tree {have.tree_id.hex()}, not to {expected.tree_id.hex()}"
        if have.model != expected.model:
            return f"belongs to model {have.model!r}, not to {expected.model!r}"
        if have.checkpoint != expected.checkpoint:
            return (
                f"comes from gist checkpoint {have.checkpoint!r}, not from {expected.checkpoint!r}"
            )
        for field in ("kind", "level", "block_size", "dim", "dtype_code", "generation"):
            left, right = getattr(have, field), getattr(expected, field)
            if left != right:
                return f"has {field} {int(left)} but the manifest says {int(right)}"
        return ""

    def _header(self, name: str, manifest: Manifest) -> Header:
        """The header of an empty file of this tree."""
        spec = manifest.spec
        kind, level = _kind(name)
        dtype = {Kind.TOKENS: "uint32", Kind.GISTS: spec.dtype, Kind.KEYS: KEY_DTYPE}[kind]
        dim = {Kind.TOKENS: 1, Kind.GISTS: spec.dim, Kind.KEYS: spec.key_dim}[kind]

        header = Header(
            kind=kind,
            dtype_code=CODES[dtype],
            level=level,
            block_size=spec.block_size,
            dim=dim,
            generation=manifest.generation,
            sequence=0,
            count=0,
            commit_start=0,
            commit_crc=0,
            total_crc=0,
            tree_id=bytes.fromhex(manifest.tree_id),
            model=spec.model,
            checkpoint=spec.gist_checkpoint,
        )
        return replace(header, generation=0, checkpoint="") if kind == Kind.TOKENS else header


def _make_durable(files: FileLayer, path: Path) -> None:
    """Create the folder ``path`` and those above it so that their names survive a power cut.

    Each name is synced before a folder is made inside it, and so is that of the deepest folder
    there is: an earlier attempt may have ended between the two.
    """
    missing: list[Path] = []
    last = path
    while last != last.parent and not files.exists(last):
        missing.append(last)
        last = last.parent

    if last != last.parent:
        files.sync_folder(last.parent)
    for folder in reversed(missing):
        files.mkdir(folder)
        files.sync_folder(folder.parent)


def _kind(name: str) -> tuple[Kind, int]:
    level = int(name[3:-4])
    if name.startswith("KEY"):
        return Kind.KEYS, level
    return (Kind.GISTS if level else Kind.TOKENS), level


def _levels(spec: TreeSpec, files: list[CtxFile]) -> list[Level]:
    """Pairs of gist and key files in the manifest's order."""
    pairs = zip(files[::2], files[1::2], strict=True)
    return [Level(n, spec, gists, keys) for n, (gists, keys) in enumerate(pairs, 1)]
