"""``megacontext data from-traces``: recorded sessions and logs to states and shards.

A trace gives the states that its refocuses met: the frontier as it was scored, and the tokens that
came next. A log of a conversation or of a code agent has no frontier; its states stand where the
model was about to reply. The texts become shards of tokens as well, so that one folder serves all
three phases of ``train joint``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer

from megacontext.core.data.conversation_logs import read_log
from megacontext.core.data.recorded_states import (
    RecordedState,
    StateLayout,
    levels_by_block,
    write_states,
)
from megacontext.core.data.shards import Layout, token_dtype, write_shard
from megacontext.core.data.tokenizer import chunks, fingerprint, load_tokenizer
from megacontext.traces.errors import ConfigError, SourceError
from megacontext.traces.reader import TraceReader
from megacontext.traces.schema import Trigger

__all__ = ["StateOptions", "collect_states"]

T = TypeVar("T")
_PROBED = 512
"""Tokens whose texts are compared to tell a trace's tokenizer from another."""
_ASKED = (Trigger.QUESTION, Trigger.TURN_END)


@dataclass(frozen=True)
class StateOptions:
    """Which states are taken.

    Attributes:
        blocks: newest blocks of a state.
        horizon: tokens that came next.
        block_size: K of the states; a trace of another K is refused.
        every: of a trace's refocuses, every so many gives a state; questions always do.
        limit: most states of one trace or log; more are thinned out evenly.
    """

    blocks: int = 96
    horizon: int = 64
    block_size: int = 32
    every: int = 4
    limit: int = 1024

    def __post_init__(self) -> None:
        for name in ("blocks", "horizon", "every", "limit"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name}: {getattr(self, name)} is below 1; use at least 1.")


def collect_states(
    traces: Sequence[Path],
    logs: Sequence[Path],
    tokenizer: Path,
    out: Path,
    options: StateOptions,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, int]:
    """Write ``states.parquet`` and one shard to ``out``.

    Args:
        tokenizer: folder of the base model.
        progress: called with a line for each file, and for each one that gives no state.

    Returns:
        Numbers of states (``from_traces``, ``from_logs``) and of tokens in the shard.

    Raises:
        ConfigError: neither a trace nor a log is named.
        SourceError: a log cannot be read, or no history is long enough for a state.
        TraceError: a trace cannot be read, or was recorded with another tokenizer or block size.
    """
    if not traces and not logs:
        raise ConfigError("from-traces: nothing to read; name traces, or logs by --log.")
    loaded = load_tokenizer(tokenizer)
    documents: list[tuple[str, str, np.ndarray]] = []
    states: list[RecordedState] = []

    for path in traces:
        progress(f"reading {path}")
        tokens, recorded = _from_trace(path, loaded, options)
        if not recorded:
            progress(_too_short(path, len(tokens), options))
        documents.append((path.name, "session", tokens))
        states += recorded
    of_traces = len(states)
    for path in logs:
        progress(f"reading {path}")
        tokens, recorded = _from_log(path, loaded, options)
        if not recorded:
            progress(_too_short(path, len(tokens), options))
        documents.append((path.name, "conversation", tokens))
        states += recorded
    if not states:
        raise SourceError(
            f"from-traces: no history reaches {options.blocks} blocks of {options.block_size} "
            f"tokens with {options.horizon} tokens behind; lower --blocks or name longer ones."
        )

    out.mkdir(parents=True, exist_ok=True)
    mark, size = fingerprint(loaded), options.block_size
    layout = Layout(mark, loaded.get_vocab_size(), size)
    entry = write_shard(out / "shard-00000.arrow", documents, layout, "from-traces")
    write_states(out, states, StateLayout(mark, size, options.blocks, options.horizon))
    counts = {"from_traces": of_traces, "from_logs": len(states) - of_traces}
    return counts | {"tokens": int(str(entry["tokens"]))}


def _too_short(path: Path, count: int, options: StateOptions) -> str:
    needed = options.blocks * options.block_size + options.horizon
    return (
        f"{path} gives no state: it has {count:,} tokens, and a state needs {needed:,} around a "
        "refocus or reply; lower --blocks to use it"
    )


def _from_trace(
    path: Path, tokenizer: Tokenizer, options: StateOptions
) -> tuple[np.ndarray, list[RecordedState]]:
    """(all tokens of a session, its states)."""
    size, blocks = options.block_size, options.blocks
    pieces: list[np.ndarray] = []
    seen: list[tuple[int, int, np.ndarray]] = []  # (step, complete blocks, levels of the frontier)
    refocuses = 0
    with TraceReader.open(path) as reader:
        if reader.meta.block_size != size:
            raise SourceError(
                f"{path} was recorded with block_size {reader.meta.block_size}, not {size}; give "
                f"--block-size {reader.meta.block_size} and a GistNet of that size."
            )
        for row in reader.rows():
            pieces.append(np.asarray(row.new_tokens))
            if row.round:
                continue
            refocuses += 1
            is_due = row.trigger in _ASKED or refocuses % options.every == 0
            complete = int(row.history_tokens) // size
            if is_due and complete >= blocks and (row.levels > 0).any():
                seen.append((row.step, complete, np.asarray(row.levels)))
        tokens = np.concatenate([np.empty(0, np.uint32), *pieces])
        _check_tokenizer(reader, tokens, tokenizer, path)

    states = []
    for step, complete, levels in _subsample(seen, options.limit):
        taken = _window(tokens, complete, options)
        if taken is not None:
            level = levels_by_block(levels, blocks, size)
            states.append(RecordedState(f"{path.name} step {step}", taken, level))
    return tokens.astype(token_dtype(tokenizer.get_vocab_size())), states


def _from_log(
    path: Path, tokenizer: Tokenizer, options: StateOptions
) -> tuple[np.ndarray, list[RecordedState]]:
    """(all tokens of a log, a state before each reply)."""
    pieces: list[list[int]] = []
    replies: list[int] = []  # tokens before each
    count = 0
    for turn in read_log(path):
        if turn.is_reply:
            replies.append(count)
        text = f"\n{turn.role}: {turn.text.strip()}\n"
        ids = [i for part in chunks(text) for i in tokenizer.encode(part).ids]
        pieces.append(ids)
        count += len(ids)
    tokens = np.array([i for ids in pieces for i in ids], np.int64)

    states = []
    for start in _subsample(replies, options.limit):
        taken = _window(tokens, start // options.block_size, options)
        if taken is not None:
            states.append(RecordedState(f"{path.name} token {start}", taken, np.empty(0, np.int64)))
    return tokens.astype(token_dtype(tokenizer.get_vocab_size())), states


def _window(tokens: np.ndarray, complete: int, options: StateOptions) -> np.ndarray | None:
    """int64 tokens of the newest blocks and of the horizon; None where there are too few."""
    size = options.block_size
    first, stop = (complete - options.blocks) * size, complete * size + options.horizon
    return tokens[first:stop].astype(np.int64) if first >= 0 and stop <= len(tokens) else None


def _subsample(items: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` of the items, evenly spaced."""
    if len(items) <= limit:
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def _check_tokenizer(
    reader: TraceReader, tokens: np.ndarray, tokenizer: Tokenizer, path: Path
) -> None:
    """Refuse a trace whose recorded texts are not those of its tokens under ``tokenizer``."""
    count = min(_PROBED, len(tokens))
    texts = reader.text_of(0, count)
    n_compared = n_equal = 0
    for token, text in zip(tokens[:count].tolist(), texts, strict=True):
        if text.isascii() and text.strip():
            n_compared += 1
            decoded = tokenizer.decode([token], skip_special_tokens=False)
            n_equal += decoded.strip() == text.strip()
    if n_compared and n_equal < 0.9 * n_compared:
        raise SourceError(
            f"{path} was recorded with another tokenizer: {n_compared - n_equal} of {n_compared} "
            "tokens stand for other text; name the model that was used by --tokenizer."
        )
