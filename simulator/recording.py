"""The world's trace: the product's writer and reader over the simulated disk."""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np

from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.checks.trace import check_rows_equal, check_rows_follow
from megacontext.simulator.config import WorldConfig
from megacontext.simulator.faults import Call, SimDisk
from megacontext.traces.errors import LockedError, TraceError
from megacontext.traces.files import FileLayer
from megacontext.traces.meta import TraceMeta
from megacontext.traces.metrics import metrics_of
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import TraceRow
from megacontext.traces.writer import TraceWriter

__all__ = ["Recorder", "metadata"]

_FOLDER = Path("/sim/traces")
_SCHEMA_BYTES = 4096
_MAGIC = b"ARROW1"
_BATCH = 8
"""Rows that the writer puts together; of a killed trace no whole batch may be missing."""


def metadata(config: WorldConfig) -> dict[str, str]:
    """The ``mc.*`` metadata of a simulated run; nothing in it depends on the clock."""
    return TraceMeta(
        block_size=config.block_size,
        w_max=config.w_max,
        levels=config.max_levels,
        seed=config.seed,
        config=json.dumps(config.to_json(), sort_keys=True),
        model="simulator",
        tokenizer="simulator",
        created="1970-01-01T00:00:00Z",
    ).to_metadata()


class Recorder:
    """One trace file after another: a crash or a full disk ends a file, the next one goes on.

    Args:
        files, path: where to write; ``path`` None names files on the simulated disk.
    """

    def __init__(
        self,
        config: WorldConfig,
        files: FileLayer,
        sometimes: Counter[str],
        path: Path | None = None,
    ) -> None:
        self.config, self.files, self.sometimes = config, files, sometimes
        self._path = path
        self._number = -1
        self.rows: list[TraceRow] = []
        self.writer: TraceWriter | None = None
        self._open()

    def _open(self) -> None:
        self._number += 1
        self.rows = []
        self._flushed = 0  # rows that were written before their batch was full
        self.path = self._path or _FOLDER / f"run-{self._number}.arrow"
        self.writer = None
        self.writer = TraceWriter(
            self.path, metadata(self.config), files=self.files, threaded=False, flush_rows=_BATCH
        )

    def put(self, row: TraceRow) -> None:
        assert self.writer is not None
        self.rows.append(row)
        self.writer.put(row)

    def second_writer(self) -> None:
        try:
            TraceWriter(self.path, metadata(self.config), files=self.files, threaded=False)
        except LockedError:
            return
        raise InvariantError("lock", "a second writer of the trace was let in")

    def restart(self, finished: bool, killed: bool = False) -> None:
        """The file ends here: check it, then begin the next one.

        Args:
            killed: the process ended and nothing else happened: every whole batch is there.
        """
        if finished and self.writer is not None:
            self.writer.close()
        self.check(finished, killed)
        self._open()

    def check(self, finished: bool, killed: bool = False) -> None:
        """The rows in the file are the first ones put; all of them where it was finished."""
        if self.writer is None:
            return
        least = len(self.rows) if finished else 0
        if killed and self.writer.error is None:
            least = len(self.rows) - (len(self.rows) - self._flushed) % _BATCH
        if isinstance(self.files, SimDisk):
            with self.files.undisturbed():  # faults are for the product's work, not for this check
                self._check(finished, least)
        else:
            self._check(finished, least)

    def _check(self, finished: bool, least: int) -> None:
        # A killed run may leave a file without one whole batch; any other must open.
        try:
            reader = TraceReader.open(self.path, self.files)
        except TraceError as error:
            if finished or least:
                raise InvariantError("trace", f"a whole trace cannot be read: {error}") from error
            self.sometimes["trace_lost"] += 1
            return

        with reader:
            longest = max((block.rows for block in reader._blocks), default=0)
            if longest > _BATCH:
                raise InvariantError("trace", f"{longest} rows waited for each other, not {_BATCH}")
            damaged = reader.check()
            if finished and (damaged or reader.num_rows != len(self.rows)):
                raise InvariantError(
                    "trace", f"{reader.num_rows} of {len(self.rows)} rows, {damaged}"
                )

            # A closed trace says that no row will follow, also to a reader of plain Arrow files.
            if finished and not (reader.finished and self._has_footer()):
                raise InvariantError("trace", f"{self.path.name} was closed without its footer")

            # Rows before the first damage or gap must be all that were written before.
            good = min([reader.num_rows, *(hurt.start for hurt in damaged)])
            if reader.gaps and not finished:  # a power cut lost a batch: what follows has moved up
                start = reader.gaps[0][0]
                good = min(good, sum(b.rows for b in reader._blocks if b.offset < start))
            if good < least:
                raise InvariantError(
                    "trace", f"{good} rows read after a kill, {least} were written"
                )
            if good > len(self.rows):
                raise InvariantError("trace", f"{good} rows read, {len(self.rows)} were put")

            # The surviving rows equal those put, and each follows from the one before it.
            rows = list(reader.rows(0, good))
            check_rows_equal(rows, self.rows)
            check_rows_follow(rows, self.config.block_size, self.config.max_levels)
            if not finished and good < len(self.rows):
                self.sometimes["trace_recovered_prefix"] += 1

    def _has_footer(self) -> bool:
        """Whether the file ends as the Arrow IPC file format wants it."""
        with closing(self.files.open(self.path)) as handle:
            return handle.pread(handle.size() - len(_MAGIC), len(_MAGIC)) == _MAGIC

    def flip_a_bit(self, salt: int) -> None:
        """Turn one bit of the growing trace over: rows are as they were put, or said damaged."""
        assert isinstance(self.files, SimDisk)
        assert self.writer is not None

        # Draw the bit from the schema in every third case: it is short and would rarely be hit.
        self.writer.flush()
        self._flushed = len(self.rows)
        size = self.files.files()[self.path]
        if salt % 3 == 0:  # schema and metadata
            size = min(size, _SCHEMA_BYTES)
        bit = salt * 2654435761 % (size * 8)
        self.files.flip(self.path, bit)

        # Either the reader reports damage, or every row reads as it was put.
        detected = False
        try:
            with TraceReader.open(self.path, self.files) as reader:
                self._every_look(reader)
                damaged = {i for hurt in reader.check() for i in range(hurt.start, hurt.stop)}
                detected = bool(damaged or reader.gaps) or reader.num_rows != len(self.rows)
                if not reader.gaps:
                    self._check_undamaged(reader, damaged)
        except TraceError:
            detected = True

        # The flip is undone, so that the run can go on.
        self.files.flip(self.path, bit)
        self.sometimes["trace_bit_flip_detected" if detected else "trace_bit_flip_harmless"] += 1

    @staticmethod
    def _every_look(reader: TraceReader) -> None:
        """All other ways to read a trace: they say what is wrong, or go on without it."""
        reader.overview()
        reader.find("a")
        reader.nll_of(0, 8)
        metrics_of(reader)

    def _check_undamaged(self, reader: TraceReader, damaged: set[int]) -> None:
        """All other rows are as they were put.

        A damaged batch may also misstate how many rows it has: those behind it are all there, in
        order, under other numbers.
        """
        moved = len(self.rows) - reader.num_rows
        for number in range(reader.num_rows):
            if number not in damaged:
                after_damage = bool(damaged) and number > min(damaged)
                check_rows_equal([reader.row(number)], [self.rows[number + after_damage * moved]])

    def write_to_stalled_disk(self, count: int, queue_rows: int) -> None:
        """The last ``count`` rows again, through a threaded writer whose disk hangs."""
        gate = threading.Event()
        disk = SimDisk()
        disk.mkdir(_FOLDER)
        rows = self.rows[-count:]
        path = _FOLDER / "slow.arrow"
        writer = TraceWriter(
            path, metadata(self.config), files=disk, threaded=True, queue_rows=queue_rows
        )

        def hang(call: Call) -> bool:
            if call.kind == "pwrite":
                gate.wait()
            return False

        disk.hooks.append(hang)
        try:
            for row in rows:
                writer.put(row)  # must return although nothing can be written
        finally:
            gate.set()
            writer.close()
        with TraceReader.open(path, disk) as reader:
            again = list(reader.rows())
        if len(again) != len(rows):
            raise InvariantError("trace", f"{len(again)} of {len(rows)} rows after a slow disk")
        dropped = sum(
            have.scores is None and expected.scores is not None
            for have, expected in zip(again, rows, strict=True)
        )
        if again and again[-1].scores_dropped != dropped:
            raise InvariantError("trace", f"{dropped} scores were dropped, not as counted")
        for have, expected in zip(again, rows, strict=True):
            same = have.levels.tobytes() == expected.levels.tobytes() and np.array_equal(
                have.actions, expected.actions
            )
            if not same or not np.array_equal(have.new_tokens, expected.new_tokens):
                raise InvariantError("trace", f"a slow disk changed row {expected.step}")
        self.sometimes["slow_trace_dropped_scores" if dropped else "slow_trace_kept_scores"] += 1
