"""A finished trace rewritten smaller: larger batches, a higher zstd level, coarser scores."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from megacontext.traces.errors import TraceError
from megacontext.traces.meta import SCORE_MODES
from megacontext.traces.reader import TraceReader
from megacontext.traces.rewrite import rewriting
from megacontext.traces.row import batch_of
from megacontext.traces.schema import schema
from megacontext.traces.writer import stored_scores

__all__ = ["CompactReport", "compact"]

_ROWS = 32  # a seek decodes one batch: about 3 ms at 8,192 scores
_ZSTD_LEVEL = 12


@dataclass(frozen=True, slots=True)
class CompactReport:
    """Sizes in bytes."""

    rows: int
    bytes_before: int
    bytes_after: int


def compact(
    source: Path, target: Path | None = None, *, scores: str | None = None, top_k: int = 256
) -> CompactReport:
    """Rewrite ``source`` to ``target`` (default: in place); columns of other tools are dropped.

    Args:
        scores: a mode of :class:`TraceWriter`; None keeps scores as they are.

    Raises:
        TraceError: a row is damaged (recover first), an unknown mode, or scores that are coarse
            already.
        LockedError: the run still writes.
    """
    source = Path(source)
    with TraceReader.open(source) as reader:
        if reader.being_written():
            raise TraceError(f"trace {source} is still being written; stop its run first.")

        # Another mode needs full scores; refuse before anything is written.
        known = reader.meta.scores
        if scores is not None and scores not in SCORE_MODES:
            raise TraceError(
                f"scores = {scores!r} is unknown; use one of {', '.join(SCORE_MODES)}."
            )
        if scores not in (None, "none", known.split(":")[0]) and known != "f16":
            raise TraceError(
                f"scores = {scores!r} is not possible; {source} has only {known} scores, use none."
            )

        # The same mode again leaves the scores as they are.
        mode = None if scores == known.split(":")[0] else scores
        mode_text = known if mode is None else f"topk:{top_k}" if mode == "topk" else mode
        output_schema = schema(reader.schema_metadata | {"mc.scores": mode_text})

        # Groups of rows bound the memory; the old size is read before it is replaced.
        before = source.stat().st_size
        rows = reader.rows()
        with rewriting(target or reader.path, output_schema, _ZSTD_LEVEL) as file:
            while group := list(islice(rows, _ROWS)):
                for row in group:
                    row.scores = stored_scores(row.scores, mode or "f16", top_k)
                file.append(batch_of(group, output_schema))
        return CompactReport(reader.num_rows, before, (target or source).stat().st_size)
