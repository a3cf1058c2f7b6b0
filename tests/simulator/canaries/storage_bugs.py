"""Bugs in the tree, its files and the trace."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

from canaries.plant import Patch, Proxy, no, wrap
from megacontext.core.tree import folder, header
from megacontext.core.tree import tree as tree_module
from megacontext.core.tree.buffer import RamRows
from megacontext.core.tree.ctxfile import CtxFile
from megacontext.core.tree.folder import TreeFolder
from megacontext.core.tree.tree import Tree
from megacontext.traces.writer import TraceWriter

# -- tree and disk -----------------------------------------------------------------------------


def commit_with(skip: int, late: bool = False) -> Callable[[Patch], None]:
    """A commit without its ``skip``-th sync; with ``late`` that sync comes at the end."""

    def plant(m: Patch) -> None:
        def commit(original: Any) -> Any:
            def mutant(self: CtxFile) -> None:
                real, calls = self._handle, count(1)

                def datasync() -> None:
                    if next(calls) != skip:
                        real.datasync()

                self._handle = Proxy(real, datasync=datasync)  # type: ignore[assignment]
                try:
                    original(self)
                finally:
                    self._handle = real
                    if late:
                        real.datasync()

            return mutant

        wrap(m, CtxFile, "commit", commit)

    return plant


def single_header_slot(m: Patch) -> None:
    def put(self: CtxFile, new: Any) -> None:
        self._handle.pwrite(0, header.encode(new))
        self._handle.datasync()
        self._header = new

    m.setattr(CtxFile, "_put", put)


def data_crc_not_checked(m: Patch) -> None:
    m.setattr(CtxFile, "_commit_is_intact", lambda self: True)


def slot_crc_not_checked(m: Patch) -> None:
    def decode(original: Any) -> Any:
        def mutant(slot: bytes, where: str) -> Any:
            return original(slot[:-4] + zlib.crc32(slot[:-4]).to_bytes(4, "little"), where)

        return mutant

    wrap(m, header, "decode", decode)


def counts_beyond_the_header(m: Patch) -> None:
    """Recovery believes the size of the file instead of the header."""

    def open_(original: Any) -> Any:
        def mutant(files: Any, path: Any, write: bool, fix: str) -> Any:
            file = original(files, path, write, fix)
            file.count = max(file.count, (file._handle.size() - 8192) // file._stride)
            return file

        return staticmethod(mutant)

    wrap(m, CtxFile, "open", open_)


def commit_does_nothing(m: Patch) -> None:
    m.setattr(Tree, "commit", lambda self: setattr(self, "_committed", self._n_tokens))


def manifest_written_in_place(m: Patch) -> None:
    def write(original: Any) -> Any:
        def mutant(files: Any, where: Any, manifest: Any) -> None:
            def open_(path: Any, **options: Any) -> Any:
                return files.open(path.with_name("manifest.json"), **options)

            original(Proxy(files, open=open_, rename=no), where, manifest)

        return mutant

    wrap(m, folder, "write_manifest", write)


def folder_not_synced(m: Patch) -> None:
    def publish(original: Any) -> Any:
        def mutant(self: TreeFolder, manifest: Any) -> None:
            real = self.files
            self.files = Proxy(real, sync_folder=no)  # type: ignore[assignment]
            try:
                original(self, manifest)
            finally:
                self.files = real

        return mutant

    wrap(m, TreeFolder, "publish", publish)


def lock_ignored(m: Patch) -> None:
    m.setattr(TreeFolder, "take_lock", no)


def no_rollback(m: Patch) -> None:
    m.setattr(RamRows, "rollback", no)
    m.setattr(CtxFile, "rollback", no)


def gist_of_wrong_children(m: Patch) -> None:
    def bring(original: Any) -> Any:
        def mutant(
            tokens: Any, levels: Any, spec: Any, gister: Any, *rest: Any, **more: Any
        ) -> None:
            def encode(level: int, children: Any) -> Any:
                return gister.encode_gists(level, children[:, ::-1].copy())

            original(tokens, levels, spec, Proxy(gister, encode_gists=encode), *rest, **more)

        return mutant

    wrap(m, tree_module, "bring_up_to_date", bring)


def regist_keeps_old_gists(m: Patch) -> None:
    def regist(self: Tree, gister: Any, progress: Any = None) -> None:
        self.commit()
        self._gister = gister

    m.setattr(Tree, "regist", regist)


# -- trace -------------------------------------------------------------------------------------


def trace_loses_rows(m: Patch) -> None:
    wrap(m, TraceWriter, "_accept", lambda f: lambda s, row: row.step % 7 == 5 or f(s, row))


def trace_actions_reversed(m: Patch) -> None:
    def put(original: Any) -> Any:
        return lambda self, row: original(self, replace(row, actions=row.actions[::-1]))

    wrap(m, TraceWriter, "put", put)


def trace_crc_not_checked(m: Patch) -> None:
    m.setattr("megacontext.traces.reader.crc_of", lambda row: row.crc)


def trace_lock_ignored(m: Patch) -> None:
    m.setattr(TraceWriter, "_take_lock", lambda self: Proxy(self, release=no))
