"""A cut or damaged trace rewritten with a footer, so that any Arrow reader opens it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megacontext.traces.errors import TraceError
from megacontext.traces.reader import TraceReader
from megacontext.traces.rewrite import rewriting

__all__ = ["RecoverReport", "recover"]


@dataclass(frozen=True, slots=True)
class RecoverReport:
    """What ``recover`` kept and lost.

    Attributes:
        rows: rows in the new file.
        lost: sentences about batches that could not be decoded.
        gaps: damaged byte ranges whose rows could not even be counted.
        tail_bytes: bytes of a cut batch at the end.
        was_finished: the old file had its end already.
    """

    rows: int
    lost: list[str]
    gaps: list[tuple[int, int]]
    tail_bytes: int
    was_finished: bool


def recover(source: Path, target: Path | None = None) -> RecoverReport:
    """Copy every whole batch of ``source`` to ``target`` (default: in place) and add the footer.

    The swap is atomic. Rows whose CRC does not match are kept, readers name them.

    Raises:
        TraceError: ``source`` is no trace, or ``target`` cannot be written.
        LockedError: the run still writes.
    """
    lost: list[str] = []
    rows = 0
    with TraceReader.open(source) as reader:
        if reader.being_written():
            raise TraceError(f"trace {source} is still being written; stop its run first.")
        with rewriting(target or reader.path, reader.schema) as file:
            for block in range(reader.num_batches):
                try:
                    batch = reader.batch(block)
                except TraceError as error:
                    lost.append(str(error))
                    continue
                file.append(batch)
                rows += batch.num_rows
        return RecoverReport(rows, lost, list(reader.gaps), reader.tail_bytes, reader.finished)
