"""One row of a trace as arrays, and its way into and out of an Arrow record batch.

Everything per entry stays in flat numpy buffers; Python only loops over rows and columns.
``docs/formats.md`` gives the byte order of the CRC for other readers.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from megacontext.traces.errors import TraceError, printable
from megacontext.traces.schema import COLUMNS, HEAT_BINS, OPTIONAL

__all__ = [
    "ACTION_DTYPE",
    "NEUTRAL_HEAT",
    "PAIR_DTYPE",
    "REJECTED_DTYPE",
    "BatchColumns",
    "TraceRow",
    "batch_of",
    "crc_of",
    "heat_of",
    "list_values",
]

ACTION_DTYPE = np.dtype(
    [
        ("kind", "<i1"),
        ("level", "<i1"),
        ("index", "<u8"),
        ("score", "<f2"),
        ("cost", "<i4"),
        ("forced", "?"),
        ("reason", "<i1"),
    ]
)
"""One applied action, packed (18 bytes); the CRC covers these bytes."""

REJECTED_DTYPE = np.dtype(
    [("kind", "<i1"), ("level", "<i1"), ("index", "<u8"), ("score", "<f2"), ("reason", "<i1")]
)
"""One candidate that was turned down, packed (13 bytes)."""

PAIR_DTYPE = np.dtype(
    [
        ("block", "<u8"),
        ("query_token", "<u8"),
        ("block_token", "<u8"),
        ("layer", "<i2"),
        ("head", "<i2"),
        ("weight", "<f4"),
    ]
)
"""One token of a question that met one token of a block, packed (32 bytes)."""

NEUTRAL_HEAT = 128
"""Heat of a bin without a scored node: what a score of 0 gives."""

_SCALARS = {
    "step": "<u4",
    "round": "<u1",
    "t_ns": "<i8",
    "phase": "<i1",
    "history_tokens": "<u8",
    "tail_tokens": "<u2",
    "budget_used": "<u4",
    "w_max": "<u4",
    "kv_rows": "<u4",
    "kv_mode": "<i1",
    "us_gist": "<f4",
    "us_lens": "<f4",
    "us_alloc": "<f4",
    "us_kv": "<f4",
    "us_decode": "<f4",
    "us_record": "<f4",
    "scores_dropped": "<u4",
    "trigger": "<i1",
}
_FIXED = np.dtype(list(_SCALARS.items()))  # packed: the first bytes under the CRC
_NULLABLE_FLOATS = ("kv_drift", "delta_nll")
_LISTS = {"new_tokens": "<u4", "new_nll": "<f4", "appended_levels": "<i1", "levels": "<i1"}
_STRUCTS = {"actions": ACTION_DTYPE, "rejected": REJECTED_DTYPE, "score_pairs": PAIR_DTYPE}
_LATE_LISTS = ("score_pairs",)  # under the CRC only where they hold something
_STRINGS = ("marker", "knobs")
_U32 = struct.Struct("<I")


@dataclass(slots=True, kw_only=True)
class TraceRow:
    """One refocus round. Fields are the columns of ``docs/formats.md``, in schema order.

    ``heat`` may be left empty: the writer then computes it from ``scores``. ``crc`` is what the
    file says; the writer computes it, and a row that is being built leaves it 0.
    """

    step: int
    round: int = 0
    t_ns: int = 0
    phase: int = 0
    history_tokens: int
    tail_tokens: int = 0
    new_tokens: np.ndarray = field(default_factory=partial(np.empty, 0, "<u4"))  # U32[t]
    new_text: list[str] = field(default_factory=list)
    new_nll: np.ndarray = field(
        default_factory=partial(np.empty, 0, "<f4")
    )  # F32[t], nats, NaN where not evaluated
    appended_levels: np.ndarray = field(default_factory=partial(np.empty, 0, "<i1"))  # I8[m]
    levels: np.ndarray = field(default_factory=partial(np.empty, 0, "<i1"))  # I8[n], oldest first
    scores: np.ndarray | None = None  # F16[n]
    actions: np.ndarray = field(default_factory=partial(np.empty, 0, ACTION_DTYPE))
    rejected: np.ndarray = field(default_factory=partial(np.empty, 0, REJECTED_DTYPE))
    budget_used: int
    w_max: int
    heat: np.ndarray = field(default_factory=partial(np.empty, 0, "<u1"))  # U8[256]
    kv_rows: int = 0
    kv_mode: int = 0
    kv_drift: float | None = None
    delta_nll: float | None = None
    us_gist: float = 0.0
    us_lens: float = 0.0
    us_alloc: float = 0.0
    us_kv: float = 0.0
    us_decode: float = 0.0
    us_record: float = 0.0
    scores_dropped: int = 0
    marker: str | None = None
    trigger: int = 0
    knobs: str | None = None
    score_pairs: np.ndarray = field(default_factory=partial(np.empty, 0, PAIR_DTYPE))
    crc: int = 0


def heat_of(
    scores: np.ndarray | None, levels: np.ndarray, block_size: int, history_tokens: int
) -> np.ndarray:
    """Best score per 1/256 of the history.

    Bin b covers tokens [floor(b * N / 256), ceil((b + 1) * N / 256)) and takes the largest score
    of all frontier nodes that overlap it, mapped as ``rint((score + 1) * 127.5)``.

    Args:
        scores: F16/F32[n] or None; NaN and infinite scores count as 0.
        levels: I8[n], the frontier, oldest first.
        block_size: K.
        history_tokens: N.

    Returns:
        U8[256]; 128 where no scored node lies (the tail, or no scores at all).
    """
    heat = np.full(HEAT_BINS, NEUTRAL_HEAT, np.uint8)
    if scores is None or len(levels) == 0 or history_tokens <= 0:
        return heat
    if len(scores) != len(levels):
        raise TraceError(
            f"scores: {len(scores)} values for a frontier of {len(levels)} nodes;"
            " give one score per node."
        )
    values = np.nan_to_num(np.asarray(scores, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    colors = np.rint((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8)
    ends = np.cumsum(np.int64(block_size) ** np.maximum(levels, 1).astype(np.int64))
    starts = np.concatenate(([0], ends[:-1]))
    bins = np.arange(HEAT_BINS + 1, dtype=np.int64) * history_tokens
    low = bins[:-1] // HEAT_BINS
    high = -(-bins[1:] // HEAT_BINS)
    low, high = low[low < ends[-1]], high[low < ends[-1]]
    first = np.searchsorted(starts, low, side="right") - 1
    stop = np.searchsorted(starts, high, side="left")
    # reduceat wants (start, stop) pairs; a sentinel keeps the last stop inside the array.
    pairs = np.stack([first, stop], axis=1).ravel()
    heat[: len(low)] = np.maximum.reduceat(np.append(colors, np.uint8(0)), pairs)[::2]
    return heat


def crc_of(row: TraceRow) -> int:
    """CRC32 over all other columns of ``row``, in the byte order of ``docs/formats.md``."""
    fixed = np.array([tuple(getattr(row, name) for name in _SCALARS)], _FIXED)
    parts: list[bytes] = [fixed.tobytes()]

    # A missing value and a value are told apart by a leading byte.
    for name in _NULLABLE_FLOATS:
        value = getattr(row, name)
        parts.append(b"\0" if value is None else b"\1" + np.array(value, "<f4").tobytes())
    for name, dtype in (_LISTS | _STRUCTS).items():
        if name in _LATE_LISTS:
            continue
        array = getattr(row, name)
        parts += [_U32.pack(len(array)), np.ascontiguousarray(array, dtype).tobytes()]

    if row.scores is None:
        parts.append(b"\0")
    else:
        scores = np.ascontiguousarray(row.scores, "<f2")
        parts += [b"\1", _U32.pack(len(scores)), scores.tobytes()]
    parts.append(np.ascontiguousarray(row.heat, np.uint8).tobytes())
    texts = [text.encode(errors="replace") for text in row.new_text]
    parts += [_U32.pack(len(texts)), np.array([len(t) for t in texts], "<u4").tobytes(), *texts]

    for name in _STRINGS:
        text = getattr(row, name)
        if text is None:
            parts.append(b"\0")
        else:
            raw = text.encode(errors="replace")
            parts += [b"\1", _U32.pack(len(raw)), raw]

    # Younger columns count only when filled, so that older traces keep their checksum.
    for name in _LATE_LISTS:
        array = getattr(row, name)
        if len(array):
            packed = np.ascontiguousarray(array, _STRUCTS[name]).tobytes()
            parts += [_U32.pack(len(array)), packed]
    return zlib.crc32(b"".join(parts))


def _offsets(lengths: list[int]) -> pa.Buffer:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise TraceError(
            f"a batch column holds {offsets[-1]} values, more than Arrow's 2^31 - 1 limit;"
            " flush fewer rows at a time."
        )
    return pa.py_buffer(offsets.astype("<i4"))


def _validity(values: list[Any]) -> pa.Buffer | None:
    present = np.array([value is not None for value in values], bool)
    return None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))


def _flat(arrow_type: pa.DataType, values: np.ndarray) -> pa.Array:
    if pa.types.is_boolean(arrow_type):
        buffer = pa.py_buffer(np.packbits(values, bitorder="little"))
    else:
        buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(arrow_type, len(values), [None, buffer])


def _list_column(arrow_type: pa.ListType, values: list[Any], dtype: Any) -> pa.Array:
    arrays = [np.asarray(() if value is None else value, dtype) for value in values]
    flat = np.concatenate(arrays) if arrays else np.empty(0, dtype)
    inner = arrow_type.value_type
    if pa.types.is_struct(inner):
        children = [_flat(part.type, flat[part.name]) for part in inner]
        child = pa.Array.from_buffers(inner, len(flat), [None], children=children)
    else:
        child = _flat(inner, flat)
    buffers = [_validity(values), _offsets([len(array) for array in arrays])]
    return pa.Array.from_buffers(arrow_type, len(values), buffers, children=[child])


def _strings(texts: list[Any]) -> pa.Array:
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:  # a lone surrogate from a broken tokenizer
        fixed = [None if t is None else t.encode(errors="replace").decode() for t in texts]
        return pa.array(fixed, pa.string())


def _column(column: pa.Field, rows: list[TraceRow]) -> pa.Array:
    name, kind = column.name, column.type
    values = [getattr(row, name) for row in rows]
    if name in _SCALARS:
        return _flat(kind, np.array(values, _SCALARS[name]))
    if name in _NULLABLE_FLOATS:
        return pa.array(values, kind, from_pandas=False)
    if name in _STRINGS:
        return _strings(values)
    if name == "crc":
        return _flat(kind, np.array([crc_of(row) for row in rows], "<u4"))

    # Lists of fixed length and lists of strings have layouts of their own.
    if name == "heat":
        heat = np.concatenate([np.asarray(v, "<u1") for v in values]) if rows else np.empty(0, "u1")
        if heat.size != len(rows) * HEAT_BINS:
            raise TraceError(f"heat: every row needs {HEAT_BINS} values; use heat_of().")
        return pa.FixedSizeListArray.from_arrays(pa.array(heat), HEAT_BINS)
    if name == "new_text":
        flat = _strings([text for value in values for text in value])
        buffers = [None, _offsets([len(value) for value in values])]
        return pa.Array.from_buffers(kind, len(rows), buffers, children=[flat])

    dtype = "<f2" if name == "scores" else (_LISTS | _STRUCTS)[name]
    return _list_column(kind, values, dtype)


def batch_of(rows: list[TraceRow], schema: pa.Schema) -> pa.RecordBatch:
    """The record batch of ``rows`` under ``schema`` (version 1's columns); fills in the CRCs.

    Raises:
        TraceError: a heat of the wrong length, or more than 2^31 - 1 values in one column.
    """
    return pa.RecordBatch.from_arrays([_column(column, rows) for column in COLUMNS], schema=schema)


def list_values(array: pa.ListArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The values of list column ``name`` and each row's offsets into them, I32[rows + 1].

    Values that belong to no row, as in a slice or behind a damaged offset, are left out.
    """
    values = array.values
    if name in _STRUCTS:
        flat = np.empty(len(values), _STRUCTS[name])
        for part in flat.dtype.names or ():
            flat[part] = values.field(part).to_numpy(zero_copy_only=False)
    else:
        flat = values.to_numpy(zero_copy_only=False)
    offsets = array.offsets.to_numpy()
    first, last = int(offsets[0]), int(offsets[-1])
    return flat[first:last], offsets - first if first else offsets


class BatchColumns:
    """A decoded record batch as numpy columns; ``row(j)`` slices them without copying."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.num_rows: int = batch.num_rows
        self._flat: dict[str, np.ndarray] = {}
        self._lists: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        names = set(batch.schema.names)
        for column in COLUMNS:
            if column.name not in names:
                if column.name in OPTIONAL:
                    continue
                raise TraceError(f"column {column.name} is missing; this is no trace of version 1.")
            array = batch.column(column.name)
            if array.type != column.type:
                raise TraceError(
                    f"column {column.name} is {printable(array.type)}, not {column.type}."
                )
            self._decode(column, array)
        if "scores" in names:
            self._no_scores = batch.column("scores").is_null().to_numpy(zero_copy_only=False)

    def _decode(self, column: pa.Field, array: pa.Array) -> None:
        name = column.name
        if name in _SCALARS or name == "crc":
            self._flat[name] = array.to_numpy()
        elif name in _NULLABLE_FLOATS or name in _STRINGS:
            self._flat[name] = np.array(array.to_pylist(), object)
        elif name == "heat":
            self._flat[name] = array.flatten().to_numpy().reshape(-1, HEAT_BINS)
        elif name == "new_text":
            self._texts = array
        else:
            self._lists[name] = list_values(array, name)

    def row(self, j: int) -> TraceRow:
        """Row ``j`` of the batch; its arrays are read-only views."""
        fields: dict[str, Any] = {}
        for name, column in self._flat.items():
            value = column[j]
            fields[name] = value if name == "heat" or value is None else _plain(value)
        for name, (flat, offsets) in self._lists.items():
            view = flat[offsets[j] : offsets[j + 1]]
            view.flags.writeable = False
            fields[name] = view
        if self._no_scores[j]:
            fields["scores"] = None
        fields["new_text"] = self._texts[j].as_py()
        return TraceRow(**fields)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
