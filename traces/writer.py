"""The trace writer: ``put`` costs the decoding thread microseconds and never waits for a disk."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from megacontext.traces.errors import LockedError, TraceError
from megacontext.traces.files import OS_FILES, FileLayer, Lock
from megacontext.traces.ipc_writer import BatchFile
from megacontext.traces.meta import SCORE_MODES
from megacontext.traces.paths import lock_path, real_path
from megacontext.traces.row import BatchColumns, TraceRow, batch_of, heat_of
from megacontext.traces.schema import schema

__all__ = ["SCORES_PER_ROW", "TraceWriter", "stored_scores"]

_FLUSH_BYTES = 16 << 20  # a batch of bulk-ingest rows is cut here, far below Arrow's 2^31 limit
SCORES_PER_ROW = 256
_FIELDS = tuple(TraceRow.__dataclass_fields__)


def stored_scores(
    scores: np.ndarray | None, mode: str, top_k: int = SCORES_PER_ROW
) -> np.ndarray | None:
    """What ``mode`` keeps of F16[n] ``scores``, as F16[n].

    ``u8``: ``rint((s + 1) * 127.5) / 127.5 - 1``; ``topk``: the ``top_k`` values of largest size
    (the older node first among equals), the others NaN; ``none``: None.
    """
    if scores is None or mode == "none":
        return None
    if mode == "u8":
        clean = np.clip(np.nan_to_num(scores.astype(np.float32)), -1, 1)
        stepped: np.ndarray = np.rint((clean + 1) * 127.5) / 127.5 - 1
        return stepped.astype(np.float16)
    if mode == "topk" and len(scores) > top_k:
        size = np.nan_to_num(np.abs(scores.astype(np.float32)))
        output = np.full(len(scores), np.nan, np.float16)
        best = np.argsort(-size, kind="stable")[:top_k]
        output[best] = scores[best]
        return output
    return scores


@dataclass(slots=True)
class _Flush:
    """A request to write what is pending, and its answer."""

    done: threading.Event = field(default_factory=threading.Event)


class TraceWriter:
    """Appends rows to the trace at ``path``; a context manager.

    A new file has its name as soon as its schema is on disk. An existing file at ``path`` stays
    until the new one has rows, then it is replaced by rename: a run that dies before does not cost
    it. ``<path>.lock`` keeps a second writer out.

    Args:
        path: the trace; its folder is made where missing.
        meta: ``mc.*`` metadata, see :meth:`TraceMeta.to_metadata`; ``mc.block_size`` is required.
        scores: how scores are stored: ``f16`` exactly, ``u8`` in 256 steps, ``topk`` only the
            ``top_k`` largest by size, ``none``. Recorded as ``mc.scores``.
        flush_rows: rows per batch.
        flush_ms: a row waits at most this long for its batch (only when ``threaded``).
        queue_rows: rows that may wait with their scores; beyond, scores are dropped, nothing else.
        files: the file layer.
        threaded: False writes inside ``put``, for deterministic simulation.
        prefix: copy the whole batches of this (cut) trace first; the swap is atomic. It may be
            ``path`` itself.
        prefix_rows: copy only this many rows of ``prefix``.
        lock: the lock at ``lock_path(path)``, if the caller holds it, who also releases it.

    Raises:
        TraceError: ``path`` cannot be written or an argument is out of range.
        LockedError: another process writes this trace.
    """

    def __init__(
        self,
        path: Path,
        meta: dict[str, str],
        *,
        scores: str = "f16",
        top_k: int = SCORES_PER_ROW,
        flush_rows: int = 8,
        flush_ms: float = 250,
        queue_rows: int = 256,
        files: FileLayer = OS_FILES,
        threaded: bool = True,
        prefix: Path | None = None,
        prefix_rows: int | None = None,
        lock: Lock | None = None,
    ) -> None:
        _check_options(meta, scores, flush_rows, queue_rows)

        self.path = real_path(Path(path))
        self.rows_written = 0
        self.scores_dropped = 0
        self.error: BaseException | None = None
        self._scores, self._top_k = scores, top_k
        self._block_size = int(meta["mc.block_size"])
        self._flush_rows, self._flush_s, self._queue_rows = flush_rows, flush_ms / 1e3, queue_rows
        self._files = files

        # Rows that wait for the next batch; their bytes bound the memory.
        self._pending: list[TraceRow] = []
        self._pending_bytes = 0
        self._closed = False
        self._lock = self._take_lock() if lock is None else None

        # On any failure the lock is freed again, else no later run could write here.
        try:
            mode_text = f"topk:{top_k}" if scores == "topk" else scores
            self._file = BatchFile(self.path, schema(meta | {"mc.scores": mode_text}), files)
            try:
                if prefix is not None:
                    self._copy_prefix(Path(prefix), prefix_rows)
                if self.rows_written or not files.exists(self.path):
                    self._file.publish()
            except BaseException:
                self._file.abandon()
                raise
        except OSError as error:
            self._release()
            raise TraceError(
                f"trace {self.path} cannot be written ({error.strerror or error});"
                " choose another path or free space."
            ) from error
        except BaseException:
            self._release()
            raise

        self._queue: queue.SimpleQueue[TraceRow | _Flush | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._run, name="trace-writer", daemon=True)
            self._thread.start()

    def put(self, row: TraceRow) -> None:
        """Hand over one row; its arrays are copied, so the caller may reuse them.

        Never waits for the writer. With ``queue_rows`` rows waiting, the row keeps everything but
        its scores and ``scores_dropped`` counts it.

        Raises:
            TraceError: the writer is closed, or an earlier write failed.
        """
        if self._closed:
            raise TraceError(f"trace {self.path} is closed; open a new writer.")
        self._raise_error()

        # With a full queue the scores are dropped: they are nearly all of a row.
        full = self._thread is not None and self._queue.qsize() >= self._queue_rows
        owned = TraceRow.__new__(TraceRow)  # copy.copy() of a slotted class takes 3x as long
        for name in _FIELDS:
            value = getattr(row, name)
            setattr(owned, name, value.copy() if isinstance(value, (np.ndarray, list)) else value)

        if row.scores is not None and full and self._scores != "none":
            if row.heat.size == 0:
                owned.heat = heat_of(row.scores, row.levels, self._block_size, row.history_tokens)
            owned.scores = None
            self.scores_dropped += 1
        elif owned.scores is not None:
            owned.scores = owned.scores.astype(np.float16, copy=False)
        owned.scores_dropped = self.scores_dropped

        if self._thread is not None:
            self._queue.put(owned)
            return
        self._accept(owned)
        if self.error is not None:
            self._raise_error()

    def flush(self) -> None:
        """Return once every row handed over so far is in the file (not necessarily on the disk).

        Raises:
            TraceError: a write failed.
        """
        if self._thread is None:
            self._write_pending()
        elif not self._closed:
            request = _Flush()
            self._queue.put(request)
            while not request.done.wait(0.05) and self._thread.is_alive():
                pass
        self._raise_error()

    def close(self, *, keep_empty: bool = True) -> None:
        """Write what is pending and the footer, reach the disk, release the lock; idempotent.

        Args:
            keep_empty: a trace without rows may still replace an existing file.

        Raises:
            TraceError: a write failed; whole batches before it stay readable.
        """
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        try:
            self._write_pending()
            whole = self.error is None and (keep_empty or self._file.published)
            if whole:
                try:
                    self._file.finish()
                except OSError as error:
                    self.error = error
            if not whole or self.error is not None:
                self._file.abandon()
        finally:
            self._release()
        self._raise_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close(keep_empty=error is None)
        except TraceError as late:
            if error is None:
                raise
            error.add_note(str(late))  # the first failure is the one to report

    def _take_lock(self) -> Lock:
        if self.path.exists() and not self.path.is_file():
            raise TraceError(f"trace {self.path} exists and is no file; choose another path.")
        try:
            self._files.mkdir(self.path.parent)
            return self._files.lock(lock_path(self.path))
        except LockedError as error:
            raise LockedError(
                f"trace {self.path} is being written by another process;"
                " wait for it, stop it or choose another path."
            ) from error
        except OSError as error:
            raise TraceError(
                f"trace {self.path} cannot be written ({error.strerror or error});"
                " choose another path."
            ) from error

    def _release(self) -> None:
        if self._lock is None:
            return
        # Unlinked while still held: whoever opened the old lock file sees that it lost its name.
        try:
            self._files.unlink(lock_path(self.path))
        except OSError as error:
            self.error = self.error or error  # raised from close, if nothing failed before
        finally:
            self._lock.release()

    def _copy_prefix(self, prefix: Path, limit: int | None) -> None:
        from megacontext.traces.reader import TraceReader

        with TraceReader.open(prefix, self._files) as source:
            same = source.schema.names == self._file.schema.names
            for batch in source.batches(stop=limit):
                if same:
                    batch = batch.cast(self._file.schema)
                else:  # an older trace, or one with columns of other tools
                    rows = BatchColumns(batch)
                    batch_rows = [rows.row(j) for j in range(batch.num_rows)]
                    batch = batch_of(batch_rows, self._file.schema)
                self._file.append(batch)
                self.rows_written += batch.num_rows
            if self.rows_written:
                self.scores_dropped = source.row(self.rows_written - 1).scores_dropped

    def _raise_error(self) -> None:
        if self.error is None:
            return
        if isinstance(self.error, TraceError):
            raise self.error
        reason = getattr(self.error, "strerror", None) or self.error
        raise TraceError(
            f"trace {self.path} could not be written after {self.rows_written} rows ({reason});"
            " rows that reached the disk stay readable, free space and resume."
        ) from self.error

    def _run(self) -> None:
        deadline = 0.0
        while self.error is None:
            wait = max(0.0, deadline - time.monotonic()) if self._pending else None
            try:
                item = self._queue.get(timeout=wait)
            except queue.Empty:
                self._write_pending()
                continue
            if item is None:
                return
            if isinstance(item, _Flush):
                self._write_pending()
                item.done.set()
                continue
            if not self._pending:
                deadline = time.monotonic() + self._flush_s
            self._accept(item)
            if self._pending and time.monotonic() >= deadline:
                self._write_pending()

    def _accept(self, row: TraceRow) -> None:
        self._pending.append(row)
        self._pending_bytes += 3 * len(row.levels) + 16 * len(row.new_text)
        self._pending_bytes += sum(map(len, row.new_text))
        if len(self._pending) >= self._flush_rows or self._pending_bytes >= _FLUSH_BYTES:
            self._write_pending()

    def _write_pending(self) -> None:
        if not self._pending or self.error is not None:
            return
        rows, self._pending, self._pending_bytes = self._pending, [], 0
        try:
            for row in rows:
                if row.heat.size == 0:
                    row.heat = heat_of(row.scores, row.levels, self._block_size, row.history_tokens)
                row.scores = stored_scores(row.scores, self._scores, self._top_k)
            self._file.append(batch_of(rows, self._file.schema))
            self._file.publish()
        except Exception as error:  # raised from the next put, flush or close
            self.error = error
            return
        self.rows_written += len(rows)


def _check_options(meta: dict[str, str], scores: str, flush_rows: int, queue_rows: int) -> None:
    if scores not in SCORE_MODES:
        raise TraceError(f"scores = {scores!r} is unknown; use one of {', '.join(SCORE_MODES)}.")
    if not meta.get("mc.block_size", "").isdigit():
        raise TraceError(
            f"mc.block_size = {meta.get('mc.block_size')!r} is not a number; put K there."
        )
    if flush_rows < 1 or queue_rows < 1:
        raise TraceError(
            f"flush_rows = {flush_rows} and queue_rows = {queue_rows} must both be at least 1."
        )
