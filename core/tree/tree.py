"""The append-only K-ary tree over the history: one code over rows in memory or on disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from megacontext.core.geometry import node_count
from megacontext.core.tree.buffer import RamRows, Rows
from megacontext.core.tree.checks import check_gister, check_span, regist_spec, token_ids
from megacontext.core.tree.codec import STORED, decode_vectors
from megacontext.core.tree.ctxfile import CtxFile
from megacontext.core.tree.disk_errors import WriteState, disk_errors
from megacontext.core.tree.folder import TreeFolder
from megacontext.core.tree.identity import make_tree_id, utc
from megacontext.core.tree.level import Level, bring_up_to_date, closed_block, whole_tokens
from megacontext.core.tree.manifest import Manifest
from megacontext.core.tree.opening import Stored, create_stored, open_stored
from megacontext.core.tree.rebuild import new_generation
from megacontext.core.tree.recovery import Recovery, ctx_files, shrink_files
from megacontext.core.tree.spec import F32, U32, Gister, Progress, TreeSpec
from megacontext.core.tree.verify import problems, ram_levels
from megacontext.traces.errors import StorageError
from megacontext.traces.files import OS_FILES, FileLayer

__all__ = ["Tree"]


class Tree:
    """Tokens, gists and index keys of one history; made by :meth:`create` or :meth:`open`.

    Level 0 is the tokens; level L >= 1 holds one gist and one key for every complete node, that
    is ``n_tokens // block_size**L`` rows. Nothing is ever changed but by :meth:`regist`.
    Not thread-safe. A context manager: leaving the block closes the tree.

    Attributes:
        spec: the unchanging facts (regist changes ``gist_checkpoint`` and ``key_dim``).
        tree_id: 32 hex digits.
        created: UTC, ISO 8601.
        recovery: what opening found and repaired.
    """

    def __init__(
        self,
        spec: TreeSpec,
        gister: Gister | None,
        tokens: Rows,
        levels: list[Level],
        *,
        tree_id: str,
        created: str,
        folder: TreeFolder | None = None,
        write: bool = True,
        recovery: Recovery | None = None,
    ) -> None:
        self.spec = spec
        self.tree_id = tree_id
        self.created = created
        self.recovery = recovery or Recovery()
        self._gister = gister
        self._tokens = tokens
        self._levels = levels
        self._folder = folder
        where = "the tree in memory" if folder is None else str(folder.path)
        self._writes = WriteState(where, write)
        self._n_tokens = whole_tokens(levels, tokens.count, spec.block_size)
        self._committed = self._n_tokens

    @classmethod
    def create(
        cls,
        spec: TreeSpec,
        gister: Gister,
        path: Path | None = None,
        files: FileLayer = OS_FILES,
        *,
        tree_id: str | None = None,
        seed: int = 0,
        now_ns: int | None = None,
    ) -> Tree:
        """A new tree, in memory or, with ``path``, in a folder that holds no tree yet.

        Args:
            tree_id: 32 hex digits; by default a hash of ``seed``, ``now_ns`` and ``spec``.
            now_ns: nanoseconds since 1970; by default the clock.

        Raises:
            ConfigError: ``tree_id`` is malformed.
            StorageError: the folder is not free, locked, or cannot be written.
            ModelError: ``gister`` makes vectors of another length than ``spec`` says.
        """
        check_gister(spec, gister, "the new tree")
        now_ns = time.time_ns() if now_ns is None else now_ns
        tree_id = make_tree_id(tree_id, seed, now_ns, spec)
        created = utc(now_ns)
        if path is None:
            rows = RamRows((), STORED["uint32"])
            return cls(spec, gister, rows, ram_levels(spec), tree_id=tree_id, created=created)
        with disk_errors(f"create a tree in {path}"):
            stored = create_stored(files, path, Manifest(tree_id, created, 1, spec))
        return cls._on_disk(stored, gister, write=True)

    @classmethod
    def open(
        cls,
        path: Path,
        gister: Gister | None = None,
        *,
        write: bool = True,
        expect: TreeSpec | None = None,
        files: FileLayer = OS_FILES,
        progress: Progress | None = None,
    ) -> Tree:
        """The tree at ``path`` as of its last intact commit.

        The writer finishes an interrupted regist, and with a gister it makes the gists that lag
        LOD0. Without a gister, and for a reader, the history ends where gists are missing.

        Args:
            gister: what makes gists; without it nothing can be appended.
            write: become the one writer; else a reader beside it (see :meth:`refresh`).
            expect: refuse a tree with other facts.
            progress: called while lagging gists are rebuilt.

        Raises:
            LockedError: another process writes it.
            StorageError: no tree, damaged, foreign, newer, or gists of another checkpoint.
            ModelError: ``gister`` makes vectors of another length.
        """
        with disk_errors(f"open the tree in {path}"):
            stored = open_stored(files, path, gister, write, expect, progress)
        return cls._on_disk(stored, gister, write)

    @classmethod
    def _on_disk(cls, stored: Stored, gister: Gister | None, write: bool) -> Tree:
        manifest = stored.folder.manifest
        return cls(
            manifest.spec,
            gister,
            stored.tokens,
            stored.levels,
            tree_id=manifest.tree_id,
            created=manifest.created,
            folder=stored.folder,
            write=write,
            recovery=stored.recovery,
        )

    @property
    def n_tokens(self) -> int:
        """Tokens of the history, committed or not."""
        return self._n_tokens

    @property
    def committed_tokens(self) -> int:
        """Tokens that survive a crash."""
        return self._committed

    @property
    def folder_path(self) -> Path | None:
        """Where it lies on disk; None for a tree in memory."""
        return None if self._folder is None else self._folder.path

    def n_nodes(self, level: int) -> int:
        """Complete nodes of ``level`` (>= 1); a tree has none above its max_levels."""
        if level > len(self._levels):
            return 0
        self._level(level)
        return node_count(level, self._n_tokens, self.spec.block_size)

    def closing(self, tokens: U32) -> tuple[U32, U32] | None:
        """What a gister reads of the block that ``tokens`` would just close: (block U32[1, K],
        left context U32[1, C]); None if they fill no block to its end."""
        context = 0 if self._gister is None else self._gister.left_context
        return closed_block(self._tokens, tokens, self.spec.block_size, context)

    def append(
        self, tokens: Sequence[int] | NDArray[Any], encoded: tuple[F32, F32] | None = None
    ) -> None:
        """Add tokens to the history and make the gists that they complete; all or nothing.

        Args:
            encoded: gist and key of the block that :meth:`closing` returns for these tokens.

        Raises:
            ModelError: an id is not below vocab_size, ``tokens`` is no one-dimensional array of
                integers, or the gister returned what cannot be stored.
            StorageError: the disk failed (the tree then refuses further writes), or this tree
                was opened for reading or without a gister.
        """
        self._writes.check()
        if self._gister is None:
            raise StorageError(
                f"{self._writes.where} was opened without a gister; open it with one."
            )

        ids = token_ids(tokens, self.spec.vocab_size)
        rows, size = self._tokens, self.spec.block_size
        token_mark = rows.mark()
        closes_block = (rows.count % size) + len(ids) >= size
        level_marks = [level.mark() for level in self._levels] if closes_block else []

        # On any error the tokens and all levels return to their marks.
        try:
            rows.append(ids)
            if closes_block:
                bring_up_to_date(rows, self._levels, self.spec, self._gister, encoded=encoded)
        except BaseException as error:
            rows.rollback(token_mark)
            for level, mark in zip(self._levels, level_marks, strict=False):
                level.rollback(mark)
            if isinstance(error, OSError):
                raise self._writes.stop("append to", error) from error
            raise
        self._n_tokens = rows.count

    def forget(self, n_tokens: int) -> None:
        """Go back to the first ``n_tokens`` of the history. A tree on disk cannot."""
        if self._folder is not None:
            raise StorageError(f"{self._writes.where} lies on disk, where nothing is forgotten.")
        self._tokens.rollback((n_tokens, 0, 0))
        for level in self._levels:
            nodes = node_count(level.number, n_tokens, self.spec.block_size)
            level.rollback(((nodes, 0, 0), (nodes, 0, 0)))
        self._n_tokens = self._committed = n_tokens

    def tokens(self, start: int, stop: int) -> U32:
        """Token ids [start, stop): uint32 [stop - start], read-only, not copied."""
        check_span("tokens", start, stop, self._n_tokens)
        return self._tokens.view(start, stop)

    def gists(self, level: int, start: int, stop: int) -> F32:
        """Gist vectors of nodes [start, stop) of ``level``: float32 [stop - start, dim], a copy."""
        check_span(f"level {level}", start, stop, self.n_nodes(level))
        return self._level(level).vectors(start, stop)

    def gist_rows(self, level: int, indices: NDArray[np.integer[Any]]) -> F32:
        """Gist vectors of the nodes ``indices`` of ``level``: float32 [n, dim], a copy."""
        rows = np.asarray(indices, np.int64)
        nodes = self.n_nodes(level)
        if rows.size and not (rows.min() >= 0 and rows.max() < nodes):
            raise IndexError(f"indices outside the {nodes} nodes of level {level}")
        stored = self._level(level).gists.view(0, nodes)[rows]
        return decode_vectors(stored, self.spec.dtype)

    def keys(self, level: int, start: int, stop: int) -> F32:
        """Index keys of nodes [start, stop) of ``level``: float32 [stop - start, key_dim]."""
        check_span(f"level {level}", start, stop, self.n_nodes(level))
        return self._level(level).index_keys(start, stop)

    def commit(self) -> None:
        """Return once everything appended survives a crash; LOD0 first, then the levels.

        Raises:
            StorageError: the disk failed; what was committed before stays, this tree refuses
                further writes, and opening it again recovers.
        """
        self._writes.check()
        try:
            self._tokens.commit()
            for level in self._levels:
                level.commit()
        except OSError as error:
            raise self._writes.stop("commit to", error) from error
        self._committed = self._n_tokens

    def refresh(self) -> bool:
        """Reader: adopt what the writer committed since; whether anything is new.

        Raises:
            StorageError: the tree became unreadable.
        """
        if self._writes.allowed or self._writes.closed or self._folder is None:
            raise StorageError(f"{self._writes.where} is no open reader; open it with write=False.")
        before = self._n_tokens, self._folder.manifest.generation
        with disk_errors(f"refresh {self._writes.where}"):
            self._folder.reload()
            if self._folder.manifest.generation != before[1]:
                old, self._levels = self._levels, self._folder.open_levels(write=False)
                self.spec = self._folder.manifest.spec
                for level in old:
                    level.close()
            assert isinstance(self._tokens, CtxFile)
            # LOD0 last, as it commits first: no level may seem to be ahead of it.
            for file in reversed(ctx_files(self._tokens, self._levels)):
                file.refresh()
        self._n_tokens = whole_tokens(self._levels, self._tokens.count, self.spec.block_size)
        self._committed = self._n_tokens
        return before != (self._n_tokens, self._folder.manifest.generation)

    def regist(self, gister: Gister, progress: Progress | None = None) -> None:
        """Make all gists and keys anew with ``gister``; a crash leaves the old or the new ones.

        Commits first. The tree goes on with ``gister``; its ``key_dim`` may differ.

        Raises:
            ModelError: the gister does not fit the tree; the old gists stay.
            StorageError: the disk failed; opening the tree again recovers.
        """
        self.commit()
        spec = regist_spec(self.spec, gister, self._writes.where)

        # In memory the new levels replace the old ones; on disk a new generation of files does.
        if self._folder is None:
            levels = ram_levels(spec)
            bring_up_to_date(self._tokens, levels, spec, gister, progress)
            for level in levels:
                level.commit()
        else:
            try:
                levels = new_generation(self._folder, self._tokens, spec, gister, progress)
            except OSError as error:
                raise self._writes.stop("regist", error) from error
            except Exception:
                raise  # the gister failed; the old gists go on
            except BaseException:
                self._writes.stopped = "regist was interrupted"  # the manifest may name new files
                raise

        for level in self._levels:
            level.close()
        self.spec, self._gister, self._levels = spec, gister, levels
        self._n_tokens = self._committed = self._tokens.count

    def verify(
        self,
        gister: Gister | None = None,
        *,
        tolerance: float = 0.0,
        progress: Progress | None = None,
    ) -> list[str]:
        """Check headers, counts, token ids and all committed bytes; one sentence per finding.

        A reader looks at what is committed by now; levels that lag LOD0 are no finding while a
        writer is at work.

        Args:
            gister: also make every gist again and compare.
            tolerance: largest difference of a value that is still the same gist.
        """
        allow_missing = False
        if self._folder is not None and not self._writes.allowed and not self._writes.closed:
            allow_missing = self._folder.is_locked()
            self.refresh()
            allow_missing = allow_missing or self._folder.is_locked()
        with disk_errors(f"verify {self._writes.where}"):
            return problems(
                self._tokens, self._levels, self.spec, gister, tolerance, progress, allow_missing
            )

    def close(self) -> None:
        """Commit what was appended and let go of files and lock. May be called again.

        After an I/O error nothing is committed: the tree is as the last commit left it.

        Raises:
            StorageError: that last commit failed; files and lock are released all the same.
        """
        if self._writes.closed:
            return
        try:
            if self._writes.allowed and not self._writes.stopped:
                self.commit()
                shrink_files(self._tokens, self._levels)
        finally:
            self._writes.closed = True
            self._tokens.close()
            for level in self._levels:
                level.close()
            if self._folder is not None:
                self._folder.release_lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _level(self, level: int) -> Level:
        if not 1 <= level <= len(self._levels):
            raise IndexError(f"level {level} is outside 1 to {len(self._levels)}")
        return self._levels[level - 1]
