"""Schema version 1 of the trace, and its enums. ``docs/formats.md`` describes it for readers."""

from __future__ import annotations

import json
from enum import IntEnum

import pyarrow as pa

from megacontext.traces.errors import TraceError, printable

__all__ = [
    "CLOCK_COLUMNS",
    "CLOSE_LOOKS",
    "COLUMNS",
    "ENUMS",
    "HEAT_BINS",
    "MAX_REJECTED",
    "OPTIONAL",
    "VERSION",
    "ActionKind",
    "KVMode",
    "Phase",
    "Reason",
    "Trigger",
    "check_columns",
    "schema",
]

VERSION = "1"
HEAT_BINS = 256
MAX_REJECTED = 32


class Phase(IntEnum):
    """What the session was doing when the row was scored."""

    INGEST = 0
    DECODE = 1


class ActionKind(IntEnum):
    """Expand: a gist gives way to its K children. Collapse: K siblings give way to their gist."""

    EXPAND = 0
    COLLAPSE = 1


class KVMode(IntEnum):
    """How the KV cache followed the edit."""

    EXACT = 0
    SPLICE = 1
    REFRESH = 2


class Trigger(IntEnum):
    """Why a refocus ran."""

    BLOCK_CLOSED = 0
    QUESTION = 1
    TURN_END = 2
    SURPRISAL = 3
    MANUAL = 4
    BUDGET_CUT = 5
    BULK = 6
    ECHO = 7
    REPLY = 8


CLOSE_LOOKS = frozenset({Trigger.QUESTION, Trigger.TURN_END, Trigger.SURPRISAL})
"""Triggers whose refocuses go by the limits in ``focus.question``."""


class Reason(IntEnum):
    """Why an action was taken (< 16) or a candidate turned down (>= 16)."""

    SCORE = 0  # beyond its threshold
    PAIR = 1  # the half of a swap that the other half pays for
    HEADROOM = 2  # forced: the next block needs K free entries
    BUDGET_CUT = 3  # forced: w_max was lowered
    FORCED_OVERRIDE = 4  # forced although in cooldown: nothing else was left
    SAMPLED = 5  # drawn by stochastic_greedy
    COMPETITION = 6  # won or lost the slot allocator's competition
    OPTIMUM = 7  # part of the optimal assignment
    POLICY = 8  # chosen by the learned policy
    BUDGET = 16
    COOLDOWN = 17
    N_DIFF = 18
    PROTECTED = 19
    ILLEGAL = 20
    NOT_REARMED = 21
    GAIN = 22  # no collapse was cheap enough to pay for it


ENUMS: dict[str, type[IntEnum]] = {
    "phase": Phase,
    "actions.kind": ActionKind,
    "actions.reason": Reason,
    "rejected.kind": ActionKind,
    "rejected.reason": Reason,
    "kv_mode": KVMode,
    "trigger": Trigger,
}

_ACTION = pa.struct(
    [
        ("kind", pa.int8()),
        ("level", pa.int8()),
        ("index", pa.uint64()),
        ("score", pa.float16()),
        ("cost", pa.int32()),
        ("forced", pa.bool_()),
        ("reason", pa.int8()),
    ]
)
_REJECTED = pa.struct(
    [
        ("kind", pa.int8()),
        ("level", pa.int8()),
        ("index", pa.uint64()),
        ("score", pa.float16()),
        ("reason", pa.int8()),
    ]
)

_PAIR = pa.struct(
    [
        ("block", pa.uint64()),
        ("query_token", pa.uint64()),
        ("block_token", pa.uint64()),
        ("layer", pa.int16()),
        ("head", pa.int16()),
        ("weight", pa.float32()),
    ]
)

COLUMNS: list[pa.Field] = [
    pa.field("step", pa.uint32(), nullable=False),
    pa.field("round", pa.uint8(), nullable=False),
    pa.field("t_ns", pa.int64(), nullable=False),
    pa.field("phase", pa.int8(), nullable=False),
    pa.field("history_tokens", pa.uint64(), nullable=False),
    pa.field("tail_tokens", pa.uint16(), nullable=False),
    pa.field("new_tokens", pa.list_(pa.uint32()), nullable=False),
    pa.field("new_text", pa.list_(pa.string()), nullable=False),
    pa.field("new_nll", pa.list_(pa.float32()), nullable=False),
    pa.field("appended_levels", pa.list_(pa.int8()), nullable=False),
    pa.field("levels", pa.list_(pa.int8()), nullable=False),
    pa.field("scores", pa.list_(pa.float16()), nullable=True),
    pa.field("actions", pa.list_(_ACTION), nullable=False),
    pa.field("rejected", pa.list_(_REJECTED), nullable=False),
    pa.field("budget_used", pa.uint32(), nullable=False),
    pa.field("w_max", pa.uint32(), nullable=False),
    pa.field("heat", pa.list_(pa.uint8(), HEAT_BINS), nullable=False),
    pa.field("kv_rows", pa.uint32(), nullable=False),
    pa.field("kv_mode", pa.int8(), nullable=False),
    pa.field("kv_drift", pa.float32(), nullable=True),
    pa.field("delta_nll", pa.float32(), nullable=True),
    pa.field("us_gist", pa.float32(), nullable=False),
    pa.field("us_lens", pa.float32(), nullable=False),
    pa.field("us_alloc", pa.float32(), nullable=False),
    pa.field("us_kv", pa.float32(), nullable=False),
    pa.field("us_decode", pa.float32(), nullable=False),
    pa.field("us_record", pa.float32(), nullable=False),
    pa.field("scores_dropped", pa.uint32(), nullable=False),
    pa.field("marker", pa.string(), nullable=True),
    # Beyond the first published list; readers that do not know them may ignore them.
    pa.field("trigger", pa.int8(), nullable=False),
    pa.field("knobs", pa.string(), nullable=True),
    pa.field("score_pairs", pa.list_(_PAIR), nullable=False),
    pa.field("crc", pa.uint32(), nullable=False),
]

OPTIONAL = frozenset({"trigger", "knobs", "score_pairs"})
"""Columns that were added after the first published list: a trace may lack them."""

CLOCK_COLUMNS = frozenset(
    {"t_ns", "us_gist", "us_lens", "us_alloc", "us_kv", "us_decode", "us_record", "crc"}
)
"""Columns that two runs with the same seed need not share (the CRC covers the clocks)."""


def schema(metadata: dict[str, str] | None = None) -> pa.Schema:
    """The Arrow schema, with ``mc.*`` metadata (``mc.trace.version`` and ``mc.enums`` included)."""
    enums = {name: {e.name.lower(): int(e) for e in kind} for name, kind in ENUMS.items()}
    full = {"mc.trace.version": VERSION, "mc.enums": json.dumps(enums, sort_keys=True)}
    return pa.schema(COLUMNS, metadata=full | (metadata or {}))


def check_columns(actual: pa.Schema, name: str) -> None:
    """Refuse the trace ``name`` unless it has every column once, under its name and of its type.

    Unknown columns are ignored, but no two may share a name.

    Raises:
        TraceError: the sentence names the column.
    """
    broken = f"{name} has a damaged schema"
    try:
        names = actual.names
        duplicates = next((column for column in names if names.count(column) > 1), None)
        if duplicates is not None:
            raise TraceError(
                f"{broken}: column {duplicates!r} is there twice; nothing can be read."
            )

        # Each required column must be there with its exact type; the younger ones may be missing.
        for column in COLUMNS:
            if column.name not in names:
                if column.name in OPTIONAL:
                    continue
                raise TraceError(f"{broken}: column {column.name} is missing; nothing can be read.")
            kind = actual.field(column.name).type
            if kind != column.type:
                raise TraceError(
                    f"{broken}: column {column.name} is {printable(kind)}, not {column.type}; "
                    "nothing can be read."
                )
    except UnicodeDecodeError as error:  # a name inside a struct
        raise TraceError(f"{broken}; nothing can be read.") from error
