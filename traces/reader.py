"""Reads a trace: finished, cut by a crash, or still growing. All three are one index of batches."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from megacontext.traces.errors import TraceError
from megacontext.traces.files import OS_FILES, FileHandle, FileLayer, is_locked
from megacontext.traces.ipc_index import Block, data_end, read_schema, scan
from megacontext.traces.meta import TraceMeta
from megacontext.traces.overview import OVERVIEW_COLUMNS, Overview, OverviewBuilder
from megacontext.traces.paths import lock_path
from megacontext.traces.projection import Projection
from megacontext.traces.row import BatchColumns, TraceRow, crc_of
from megacontext.traces.schema import check_columns
from megacontext.traces.search import TextIndex

__all__ = ["RowDamage", "TraceReader"]

_CACHE_BYTES = 48 << 20
_CACHE_BATCHES = 64


@dataclass(frozen=True, slots=True)
class RowDamage:
    """Rows [start, stop) that cannot be trusted, and the sentence that says why."""

    start: int
    stop: int
    message: str


class TraceReader:
    """One open trace. Threads may share it; ``refresh`` follows a growing file.

    Attributes:
        path: the file.
        meta: the run's typed metadata.
        schema_metadata: all metadata as text.
        finished: the footer is there; no row will follow.
        generation: counts how often ``refresh`` found another file under the same name.
        gaps: damaged byte ranges between batches (their rows are lost).
    """

    def __init__(
        self,
        path: Path,
        files: FileLayer = OS_FILES,
        overview_columns: Sequence[str] = OVERVIEW_COLUMNS,
    ) -> None:
        self.path = Path(path)
        self._overview_columns = overview_columns
        self.generation = 0
        self._files = files
        self._guard = threading.RLock()
        self._handle: FileHandle | None = None
        self._load()

    @classmethod
    def open(
        cls,
        path: Path | str,
        files: FileLayer = OS_FILES,
        overview_columns: Sequence[str] = OVERVIEW_COLUMNS,
    ) -> Self:
        """Open the trace at ``path``; :meth:`overview` reads ``overview_columns`` alone.

        Raises:
            TraceError: missing, a folder, empty, no trace, cut inside its schema, or of a newer
                major version, or a column is missing, there twice or of another type.
        """
        return cls(Path(path), files, overview_columns)

    # ------------------------------------------------------------------ index

    def _load(self) -> None:
        name = str(self.path)
        try:
            if self.path.is_dir():
                raise TraceError(f"{name} is a folder; name a trace (*.arrow).")
            self._identity = self._identify()
            self._handle = handle = self._files.open(self.path)
        except FileNotFoundError:
            raise TraceError(f"{name} does not exist; check the path.") from None
        except OSError as error:
            raise TraceError(f"{name} cannot be read: {error.strerror or error}.") from error

        try:
            self.schema, self._end = read_schema(handle, name)
            metadata = self.schema.metadata or {}
            self.schema_metadata = {
                key.decode(errors="replace"): value.decode(errors="replace")
                for key, value in metadata.items()
            }
            self.meta = TraceMeta.from_metadata(self.schema_metadata, name)
            check_columns(self.schema, name)
        except OSError as error:
            self.close()
            raise TraceError(f"{name} cannot be read: {error.strerror or error}.") from error
        except BaseException:
            self.close()
            raise

        # Nothing is indexed yet: the scan below finds the batches.
        self.finished = False
        self.gaps: list[tuple[int, int]] = []
        self._blocks: list[Block] = []
        self._starts = np.zeros(1, np.int64)  # first row of each block, and num_rows at the end
        self._cache: OrderedDict[int, tuple[BatchColumns, int]] = OrderedDict()
        self._cached_bytes = 0
        self._overview = OverviewBuilder(self._overview_columns, self._is_sound)
        self._overview_blocks = 0
        self._text = TextIndex(self)
        self._scan()

    def _identify(self) -> tuple[int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None  # a file layer without real files; replacement is not noticed there
        return stat.st_dev, stat.st_ino

    def _scan(self) -> int:
        try:
            size, footer = data_end(self._open_handle)
            scanned = scan(self._open_handle, self._end, size, footer)
        except TraceError as error:
            raise TraceError(f"{self.path} is no trace: {error}") from error
        except OSError as error:
            raise TraceError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        self._blocks += scanned.blocks
        counts = np.array([block.rows for block in scanned.blocks], np.int64)
        self._starts = np.concatenate([self._starts, self._starts[-1] + np.cumsum(counts)])
        self.gaps += scanned.damage
        self._end, self.finished = scanned.end, scanned.finished
        return int(counts.sum())

    @property
    def _open_handle(self) -> FileHandle:
        if self._handle is None:
            raise TraceError(f"{self.path} was closed; open it again.")
        return self._handle

    @property
    def num_rows(self) -> int:
        return int(self._starts[-1])

    @property
    def num_batches(self) -> int:
        return len(self._blocks)

    @property
    def tail_bytes(self) -> int:
        """Bytes after the last whole batch: a cut batch, or one that is being written."""
        return 0 if self.finished else max(0, self._open_handle.size() - self._end)

    def being_written(self) -> bool:
        """Whether a live process holds the trace's writer lock (real files only)."""
        return not self.finished and is_locked(lock_path(self.path))

    def refresh(self) -> int:
        """Look for more; the number of new rows (of all rows if another file took the name).

        Raises:
            TraceError: the file that took the name is no trace; a later call looks again.
        """
        with self._guard:
            identity = self._identify()
            if self._handle is None or (identity is not None and identity != self._identity):
                return self._reload()
            if self._open_handle.size() < self._end:  # cut by someone else: start over
                return self._reload()
            return 0 if self.finished else self._scan()

    def _reload(self) -> int:
        self.close()
        self._load()
        self.generation += 1
        return self.num_rows

    # ------------------------------------------------------------------ rows

    def row(self, i: int, check: bool = True) -> TraceRow:
        """Row ``i`` (negative: from the end); its arrays are read-only views.

        Raises:
            TraceError: no such row, or the row is damaged (the sentence names its step).
        """
        count = self.num_rows
        if not -count <= i < count:
            raise TraceError(f"row {i} does not exist; {self.path} has {count} rows.")
        i %= count
        with self._guard:
            block = int(np.searchsorted(self._starts, i, side="right")) - 1
            row = self._columns(block).row(i - int(self._starts[block]))
        if check and crc_of(row) != row.crc:
            raise TraceError(
                f"row {i} (step {row.step}, round {row.round}) of {self.path} is damaged:"
                " its CRC does not match; the other rows stay readable."
            )
        return row

    def _is_sound(self, i: int) -> bool:
        try:
            self.row(i)
        except TraceError:
            return False
        return True

    def rows(
        self, start: int = 0, stop: int | None = None, check: bool = True
    ) -> Iterator[TraceRow]:
        """Rows [start, stop) in order; raises like :meth:`row` at a damaged one."""
        for i in range(start, self.num_rows if stop is None else min(stop, self.num_rows)):
            yield self.row(i, check)

    def check(self) -> list[RowDamage]:
        """Decode every row and compare its CRC; the rows that failed."""
        damage: list[RowDamage] = []
        for block in range(self.num_batches):
            start, stop = int(self._starts[block]), int(self._starts[block + 1])
            try:
                columns = BatchColumns(self.batch(block))
            except TraceError as error:
                damage.append(RowDamage(start, stop, str(error)))
                continue
            for j in range(stop - start):
                row = columns.row(j)
                if crc_of(row) != row.crc:
                    message = (
                        f"row {start + j} (step {row.step}, round {row.round}) has a wrong CRC."
                    )
                    damage.append(RowDamage(start + j, start + j + 1, message))
        return damage

    def batch(self, block: int) -> pa.RecordBatch:
        """Record batch number ``block``, decoded and validated.

        Raises:
            TraceError: it is damaged; the sentence names its rows and, where readable, steps.
        """
        where = self._blocks[block]
        try:
            raw = self._open_handle.pread(where.offset, where.length)
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(pa.py_buffer(raw)), self.schema)
            batch.validate(full=True)
            if batch.num_rows == where.rows:
                return batch
            reason = f"{batch.num_rows} rows instead of {where.rows}"
        except (pa.ArrowException, OSError, EOFError, ValueError) as error:
            reason = str(error).split("\n")[0].rstrip(".")
        first, stop = int(self._starts[block]), int(self._starts[block + 1])
        raise TraceError(
            f"rows {first} to {stop - 1}{self._steps_of(block)} of {self.path} are damaged"
            f" ({reason}); the other rows stay readable."
        )

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
        """Rows [start, stop) as record batches, in the file's batches."""
        last = self.num_rows if stop is None else min(stop, self.num_rows)
        for block in range(self.num_batches):
            low, high = int(self._starts[block]), int(self._starts[block + 1])
            if high <= start or low >= last:
                continue
            begin = max(start - low, 0)
            yield self.batch(block).slice(begin, min(high, last) - low - begin)

    def _steps_of(self, block: int) -> str:
        # The damaged buffer is often not the one that holds the steps.
        _, batch = next(self.project(["step"], block, block + 1))
        if batch is None:
            return ""
        steps = batch.column(0).to_numpy()
        return f" (steps {steps.min()} to {steps.max()})"

    def _columns(self, block: int) -> BatchColumns:
        cached = self._cache.get(block)
        if cached is not None:
            self._cache.move_to_end(block)
            return cached[0]
        batch = self.batch(block)
        columns, size = BatchColumns(batch), int(batch.nbytes)
        self._cache[block] = columns, size
        self._cached_bytes += size
        while len(self._cache) > 1 and (
            self._cached_bytes > _CACHE_BYTES or len(self._cache) > _CACHE_BATCHES
        ):
            self._cached_bytes -= self._cache.popitem(last=False)[1][1]
        return columns

    # ------------------------------------------------------------------ columns

    def project(
        self, names: Sequence[str], first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch | None]]:
        """Columns ``names`` of batches [first, stop) with their first row's number.

        Only the bytes of these columns are touched. A batch whose columns cannot be decoded comes
        as None. Columns keep the file's order.
        """
        last = self.num_batches if stop is None else min(stop, self.num_batches)
        yield from self._projection(names).batches(first, last)

    def tables(
        self, names: Sequence[str], first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.Table | None]]:
        """As :meth:`project`, with neighbouring batches as one table; a damaged one is None.

        Other threads run while a table is decoded.
        """
        last = self.num_batches if stop is None else min(stop, self.num_batches)
        yield from self._projection(names).tables(first, last)

    def _projection(self, names: Sequence[str]) -> Projection:
        return Projection(self._open_handle, self.schema, self._blocks, self._starts, names)

    def overview(self) -> Overview:
        """Scalars, heat and markers of all rows so far; only new batches are read."""
        with self._guard:
            block, known = self._overview_blocks, self._overview.num_rows
            for first, table in self.tables(self._overview.names, block):
                if table is not None:
                    self._overview.extend(table)
                    continue
                stop = int(self._starts[np.searchsorted(self._starts, first) + 1])
                self._overview.extend_damaged(stop - first)
            self._overview_blocks = self.num_batches
            if self._overview.num_rows > known:
                self._overview.repair_history(known)
            return self._overview.overview()

    def first_row(self, block: int) -> int:
        """Number of the first row of batch ``block``; of the batch after the last: num_rows."""
        return int(self._starts[block])

    def block_of(self, row: int) -> int:
        """Number of the batch that holds ``row``."""
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    # ------------------------------------------------------------------ text

    def find(
        self,
        text: str,
        start_token: int = 0,
        *,
        backward: bool = False,
        ignore_case: bool = False,
    ) -> tuple[int, int] | None:
        """Token span [start, stop) of the next occurrence of ``text`` in the history.

        Args:
            text: what to find; it may cross tokens and rows.
            start_token: forward: the match starts at or after it; backward: it starts before it.
            ignore_case: compare ASCII letters without case.
        """
        return self._text.find(text, start_token, backward=backward, ignore_case=ignore_case)

    def find_all(self, text: str, limit: int, *, ignore_case: bool = False) -> np.ndarray:
        """I64[hits, 2]: token spans of the first ``limit`` occurrences that do not overlap."""
        return self._text.find_all(text, limit, ignore_case=ignore_case)

    def text_of(self, start_token: int, stop_token: int) -> list[str]:
        """The pieces of tokens [start_token, stop_token), one each; "" where none was recorded."""
        return self._text.pieces(start_token, stop_token)

    def nll_of(self, start_token: int, stop_token: int) -> np.ndarray:
        """F32[stop - start]: NLL in nats of each token; NaN where not evaluated or recorded."""
        return self._text.nll(start_token, stop_token)

    # ------------------------------------------------------------------ life

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
