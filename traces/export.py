"""A trace for other tools: Parquet, JSON lines, or a timeline picture (SVG, HTML)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megacontext.traces.errors import TraceError
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import TraceRow
from megacontext.traces.timeline import html_timeline, svg_timeline

__all__ = ["FORMATS", "export"]

FORMATS = ("parquet", "jsonl", "svg", "html")


def export(
    reader: TraceReader,
    target: Path,
    format: str | None = None,
    *,
    scores: bool = True,
    start: int = 0,
    stop: int | None = None,
) -> int:
    """Write rows [start, stop) to ``target`` and return their number; the swap is atomic.

    Args:
        format: one of FORMATS; None takes it from ``target``'s suffix. Pictures show all rows.
        scores: leave the ``scores`` column out when False.

    Raises:
        TraceError: unknown format, a damaged row, or ``target`` cannot be written.
    """
    target = Path(target)
    kind = format or target.suffix.lstrip(".")
    if kind not in FORMATS:
        raise TraceError(f"format = {kind!r} is unknown; use one of {', '.join(FORMATS)}.")

    # Each format writes a temporary file; only a whole one replaces the target.
    try:
        with _replacing(target) as temporary:
            if kind == "parquet":
                return _parquet(reader, temporary, scores, start, stop)
            if kind == "jsonl":
                return _jsonl(reader, temporary, scores, start, stop)
            image = svg_timeline(reader) if kind == "svg" else html_timeline(reader)
            temporary.write_text(image, encoding="utf-8")
            return reader.num_rows
    except OSError as error:
        raise TraceError(
            f"{target} cannot be written ({error.strerror or error}); choose another path."
        ) from error
    except pa.ArrowException as error:  # a schema that the reader takes and the format does not
        raise TraceError(
            f"trace {reader.path} cannot be written as {kind}: {str(error).splitlines()[0]}; its "
            "schema is damaged, look at it with megacontext trace verify."
        ) from error


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    temporary = target.with_name(f".{target.name}.new")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _parquet(reader: TraceReader, target: Path, scores: bool, start: int, stop: int | None) -> int:
    rows = 0
    dropped = [] if scores else ["scores"]
    wide = _wide_schema(reader.schema)
    output = pa.schema([f for f in wide if f.name not in dropped], metadata=wide.metadata)
    with pq.ParquetWriter(target, output, compression="zstd") as writer:
        for batch in reader.batches(start, stop):
            columns = [_widened(batch.column(f.name), f.type) for f in output]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=output))
            rows += batch.num_rows
    return rows


def _wide_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_list(kind):
        return pa.list_(_wide_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(part.name, _wide_type(part.type)) for part in kind])
    return kind


def _wide_schema(schema: pa.Schema) -> pa.Schema:
    """float16 becomes float32: many Parquet readers do not know the narrow type."""
    fields = [pa.field(f.name, _wide_type(f.type), f.nullable) for f in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _widened(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if pa.types.is_float16(array.type):  # numpy converts; Arrow has no kernel for it
        return pa.array(array.to_numpy(zero_copy_only=False).astype(np.float32))
    if pa.types.is_list(array.type):
        mask = array.is_null() if array.null_count else None
        offsets = array.offsets.to_numpy()  # of a slice they do not start at 0
        values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        begin = pa.array(offsets - offsets[0])
        return pa.ListArray.from_arrays(begin, _widened(values, kind.value_type), mask=mask)
    parts = [_widened(a, part.type) for a, part in zip(array.flatten(), kind, strict=True)]
    return pa.StructArray.from_arrays(parts, names=[part.name for part in kind])


def _jsonl(reader: TraceReader, target: Path, scores: bool, start: int, stop: int | None) -> int:
    rows = 0
    with target.open("w", encoding="utf-8") as file:
        for row in reader.rows(start, stop):
            file.write(json.dumps(_plain(row, scores), ensure_ascii=False) + "\n")
            rows += 1
    return rows


def _plain(row: TraceRow, scores: bool) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for column in dataclasses.fields(row):
        if column.name == "scores" and not scores:
            continue
        plain[column.name] = _json(getattr(row, column.name))
    return plain


def _json(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, np.ndarray):
        if value.dtype.names:
            names = value.dtype.names
            return [dict(zip(names, map(_json, r), strict=True)) for r in value.tolist()]
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return [_json(item) for item in value.tolist()]
        return value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
