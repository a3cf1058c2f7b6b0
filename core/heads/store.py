"""Keys of every token for a few heads: one row of int8 a token, in memory or in ``HEADS.ctx``.

The keys are a function of the tokens alone: tokens are read in chunks of fixed size and place,
each with the tokens before it as context. So the file is a cache of LOD0: it holds whole chunks,
is committed after LOD0 and never beyond it, and whatever of it is missing, damaged or of another
calibration is encoded again. A crash can cost time, never content. After a write or sync failed,
nobody knows which bytes of the page cache are on the disk, so the store takes no more writes; the
next one goes on from the last header, which it makes durable first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from megacontext.core.heads.calibration import HeadsCalibration
from megacontext.core.tree.buffer import RamRows
from megacontext.core.tree.codec import CODES, STORED
from megacontext.core.tree.ctxfile import CtxFile
from megacontext.core.tree.disk_errors import WriteState, disk_errors
from megacontext.core.tree.header import Header, Kind
from megacontext.core.tree.spec import U32, Progress
from megacontext.core.tree.tree import Tree
from megacontext.traces.errors import StorageError
from megacontext.traces.files import OS_FILES, FileLayer

__all__ = ["HEADS_FILE", "KeyEncoder", "KeyStore"]

HEADS_FILE = "HEADS.ctx"
_BATCH_TOKENS = 16_384
I8 = NDArray[np.int8]


class KeyEncoder(Protocol):
    """Reads chunks of tokens; see :class:`~megacontext.core.heads.encoder.HeadEncoder`."""

    calibration: HeadsCalibration

    def encode(self, tokens: U32, start: int) -> I8:
        """Keys int8 [t - start, bytes] of ``tokens[start:]``; what is before is context."""
        ...

    def encode_chunks(self, tokens: U32, first: int) -> I8:
        """Keys of whole chunks: ``tokens`` begins with the context of the chunk at ``first``."""
        ...


class KeyStore:
    """Grows with an append-only history, chunk by chunk.

    Args:
        encoder: makes the keys.
        folder: of a tree on disk whose writer this process is; None keeps the keys in memory.
        tree_id: 32 hex digits, of that tree.
        files: the file layer.
    """

    def __init__(
        self,
        encoder: KeyEncoder,
        folder: Path | None = None,
        tree_id: str = "",
        files: FileLayer = OS_FILES,
    ) -> None:
        self.encoder = encoder
        calibration = encoder.calibration
        self.chunk, self.left = calibration.chunk, calibration.left
        width = calibration.bytes_per_token
        if folder is None:
            self._rows: RamRows | CtxFile = RamRows((width,), STORED["int8"])
        else:
            with disk_errors(f"open {folder / HEADS_FILE}"):
                self._rows = _open_or_create(files, folder, tree_id, calibration)
        where = "the keys in memory" if folder is None else str(folder / HEADS_FILE)
        self._writes = WriteState(where, allowed=True)
        # What a reader of the newest, unfinished chunk was told last.
        self._tail_key: tuple[int, int] | None = None
        self._tail: I8 = np.empty((0, width), np.int8)

    @classmethod
    def beside(cls, encoder: KeyEncoder, tree: Tree, files: FileLayer = OS_FILES) -> Self:
        """The keys of ``tree``'s history: in its folder, or in memory as the tree is.

        Raises:
            StorageError: the disk failed.
        """
        store = cls(encoder, tree.folder_path, tree.tree_id, files)
        # Keys of tokens that the tree lost would pass for those of what comes in their place.
        store.trim(tree.n_tokens)
        return store

    @property
    def count(self) -> int:
        """Tokens whose keys are stored: whole chunks."""
        return self._rows.count

    def trim(self, n_tokens: int) -> None:
        """Forget keys of tokens that the history does not have."""
        if self._tail_key is not None and self._tail_key[1] > n_tokens:
            self._tail_key = None
        whole = n_tokens // self.chunk * self.chunk
        if self.count <= whole:
            return
        if isinstance(self._rows, CtxFile):
            with self._writing("shorten"):
                self._rows.trim(whole)
        else:
            self._rows.rollback((whole, 0, 0))

    def extend(
        self,
        tokens: Callable[[int, int], U32],
        n_tokens: int,
        progress: Progress | None = None,
    ) -> None:
        """Encode the chunks that are complete within ``n_tokens`` and not stored yet.

        Raises:
            StorageError: the disk failed, now or earlier; opening the tree again encodes what is
                missing.

        Args:
            tokens: token ids [start, stop) of the history.
            progress: called with (tokens done, tokens in all) after each batch.
        """
        whole = n_tokens // self.chunk * self.chunk
        batch = max(1, _BATCH_TOKENS // self.chunk) * self.chunk
        total = whole - self.count
        while self.count < whole:
            first = self.count
            stop = min(whole, first + batch)
            read = np.asarray(tokens(max(0, first - self.left), stop))
            keys = np.ascontiguousarray(self.encoder.encode_chunks(read, first))
            with self._writing("append to"):
                self._rows.append(keys)
            if progress is not None:
                progress(total - (whole - self.count), total)

    def follow(
        self,
        tokens: Callable[[int, int], U32],
        n_tokens: int,
        committed_tokens: int,
        progress: Progress | None = None,
    ) -> None:
        """Encode what the history of ``n_tokens`` has in whole chunks; commit if it is due.

        Args:
            committed_tokens: tokens of LOD0 on stable storage.
        """
        self.trim(n_tokens)
        before = self.count
        self.extend(tokens, n_tokens, progress)
        if self.count > before:
            self.commit(committed_tokens)

    def newest(self, tokens: Callable[[int, int], U32], n_tokens: int) -> I8:
        """Keys int8 [n_tokens - count, bytes] of the newest tokens, which fill no chunk yet."""
        first = self.count
        if self._tail_key != (first, n_tokens):
            start = max(0, first - self.left)
            read = np.asarray(tokens(start, n_tokens))
            known = n_tokens > first
            self._tail = self.encoder.encode(read, first - start) if known else self._tail[:0]
            self._tail_key = first, n_tokens
        return self._tail

    def view(self, start: int, stop: int) -> I8:
        """Stored keys int8 [stop - start, bytes], read-only, not copied."""
        rows: I8 = self._rows.view(start, stop)
        return rows

    def commit(self, committed_tokens: int) -> None:
        """Make the stored keys survive a crash, if the history that they belong to does.

        Args:
            committed_tokens: tokens of LOD0 on stable storage.

        Raises:
            StorageError: the disk failed, now or earlier; what was committed before stays.
        """
        if self.count <= committed_tokens:
            with self._writing("commit to"):
                self._rows.commit()

    def close(self) -> None:
        """Let go of the file; what was not committed is encoded again next time."""
        if isinstance(self._rows, CtxFile):
            self._rows.close()

    @contextmanager
    def _writing(self, action: str) -> Iterator[None]:
        """Change the file, unless an earlier change failed; a failure is the last one."""
        self._writes.check()
        try:
            yield
        except OSError as error:
            raise self._writes.stop(action, error) from error


def _open_or_create(
    files: FileLayer, folder: Path, tree_id: str, calibration: HeadsCalibration
) -> CtxFile:
    """The tree's key file, if it is sound and of this calibration, else an empty new one."""
    path = folder / HEADS_FILE
    header = _header(tree_id, calibration)
    if files.exists(path):
        try:
            file = CtxFile.open(files, path, True, "it is made anew")
        except StorageError:
            file = None
        # No other check of this file ever reads all of it, and a wrong key looks like a right one.
        if file is not None and _same(file.header, header) and file.is_intact():
            # Whoever wrote the header or the name may have died, or failed, before its sync.
            file.make_durable()
            file.settle()
            files.sync_folder(folder)
            return file
        if file is not None:
            file.close()
    file = CtxFile.create(files, path, header)
    files.sync_folder(folder)
    return file


def _header(tree_id: str, calibration: HeadsCalibration) -> Header:
    return Header(
        kind=Kind.HEADS,
        dtype_code=CODES["int8"],
        level=0,
        block_size=calibration.chunk,
        dim=calibration.bytes_per_token,
        generation=0,
        sequence=0,
        count=0,
        commit_start=0,
        commit_crc=0,
        total_crc=0,
        tree_id=bytes.fromhex(tree_id),
        model=calibration.model,
        checkpoint=calibration.id,
    )


def _same(one: Header, other: Header) -> bool:
    """Whether two headers differ in nothing but what commits change."""
    names = ("sequence", "count", "commit_start", "commit_crc", "total_crc")
    changing: dict[str, Any] = dict.fromkeys(names, 0)
    return replace(one, **changing) == replace(other, **changing)
