"""Arrow shards of token slices: the schema, the writer, and a reader without copies.

One row is one slice of a document: at most ``slice_tokens`` tokens that start at a multiple of
``stride`` and therefore of the block size, so that row offset r holds block r / K onward. The
tokens of a shard lie in one buffer in document order; with ``stride == slice_tokens`` a
document's rows are its whole token stream.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from megacontext.traces.errors import ConfigError, SourceError

__all__ = ["Layout", "Shard", "ShardSet", "open_shards", "token_dtype", "write_shard"]

_KEY = b"megacontext"


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest of uint16 and uint32 that holds every token of a vocabulary."""
    return np.dtype(np.uint16 if vocab_size <= 65_536 else np.uint32)


def _schema(vocab_size: int) -> pa.Schema:
    item = pa.from_numpy_dtype(token_dtype(vocab_size))
    return pa.schema(
        [
            pa.field("document", pa.string(), nullable=False),
            pa.field("domain", pa.string(), nullable=False),
            pa.field("offset", pa.int64(), nullable=False),  # tokens from the document's start
            pa.field("tokens", pa.list_(pa.field("item", item, nullable=False))),
        ]
    )


@dataclass(frozen=True)
class Layout:
    """How documents are cut. All sizes in tokens.

    ``horizon`` is how many tokens behind a slice's context later stages score; it is recorded
    for them and bounds what they may ask for.
    """

    tokenizer: str
    vocab_size: int
    block_size: int = 32
    slice_tokens: int = 4096
    stride: int = 4096
    horizon: int = 64

    def __post_init__(self) -> None:
        if self.block_size < 2:
            raise ConfigError(f"layout.block_size: {self.block_size} is below 2 tokens.")
        for name in ("slice_tokens", "stride"):
            value = getattr(self, name)
            if value < self.block_size or value % self.block_size:
                raise ConfigError(
                    f"layout.{name}: {value} is no multiple of block_size {self.block_size}; "
                    "choose a positive multiple."
                )
        if self.stride > self.slice_tokens:
            raise ConfigError(
                f"layout.stride: {self.stride} is above slice_tokens {self.slice_tokens} and "
                "would leave text out; choose at most slice_tokens."
            )
        if not 32 <= self.horizon <= 128:
            raise ConfigError(f"layout.horizon: {self.horizon} is outside 32 to 128 tokens.")


def write_shard(
    path: Path, documents: Sequence[tuple[str, str, np.ndarray]], layout: Layout, note: str
) -> dict[str, object]:
    """Write (name, domain, tokens) triples as one shard; the file appears complete or not at all.

    Returns the manifest entry: file, rows, tokens, SHA-256. ``note`` is the fingerprint of what
    the shard was made from; a resumed preparation compares it.
    """
    names: list[str] = []
    domains: list[str] = []
    offsets: list[int] = []
    parts: list[np.ndarray] = []
    for name, domain, tokens in documents:
        for start in range(0, len(tokens), layout.stride):
            names.append(name)
            domains.append(domain)
            offsets.append(start)
            parts.append(tokens[start : start + layout.slice_tokens])

    # One record batch: names, domains, offsets, and the slices as a list column.
    ends = np.cumsum([0, *map(len, parts)], dtype=np.int32)
    kind, plain = token_dtype(layout.vocab_size), _schema(layout.vocab_size)
    flat = np.concatenate([*parts, np.empty(0, kind)]).astype(kind)
    lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(flat), type=plain.field(3).type)
    meta = {"layout": asdict(layout), "note": note, "tokens": int(ends[-1])}
    schema = plain.with_metadata({_KEY: json.dumps(meta, sort_keys=True).encode()})
    columns = [pa.array(names, pa.string()), pa.array(domains, pa.string())]
    batch = pa.record_batch([*columns, pa.array(offsets, pa.int64()), lists], schema=schema)

    # Replaced as a whole, so that a killed preparation leaves no half shard.
    partial = path.with_suffix(".tmp")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    partial.replace(path)
    return {"file": path.name, "rows": len(names), "tokens": int(ends[-1]), "sha256": digest}


@dataclass(frozen=True)
class Shard:
    """One open shard: ``tokens`` is a read-only view into the mapped file."""

    path: Path
    layout: Layout
    note: str
    domains: list[str]
    documents: list[str]
    offsets: np.ndarray
    starts: np.ndarray  # row r's tokens are tokens[starts[r] : starts[r + 1]]
    tokens: np.ndarray

    @classmethod
    def open(cls, path: Path) -> Shard:
        """Map a shard.

        Raises:
            SourceError: the file is missing, damaged, empty or no shard.
        """
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            meta = json.loads((reader.schema.metadata or {})[_KEY])
            batch = reader.get_batch(0)
            layout = Layout(**meta["layout"])
        except (OSError, KeyError, TypeError, pa.ArrowInvalid, json.JSONDecodeError) as error:
            raise SourceError(
                f"data: {path} is no token shard ({type(error).__name__}); write it again with "
                "`megacontext data prepare`."
            ) from error

        # Views of the mapped file: nothing is copied.
        column = batch.column(3)
        starts = column.offsets.to_numpy(zero_copy_only=True)
        tokens = column.values.to_numpy(zero_copy_only=True)
        if not len(tokens):
            raise SourceError(
                f"data: {path} is an empty shard; prepare it from a source with text."
            )
        return cls(
            path,
            layout,
            str(meta["note"]),
            batch.column(1).to_pylist(),
            batch.column(0).to_pylist(),
            batch.column(2).to_numpy(),
            starts,
            tokens,
        )


@dataclass(frozen=True)
class ShardSet:
    """All shards of a folder as one token stream per domain."""

    layout: Layout
    shards: tuple[Shard, ...]
    streams: dict[str, list[np.ndarray]]  # domain -> contiguous document token arrays, by document

    def tokens(self, domain: str) -> int:
        return sum(len(stream) for stream in self.streams[domain])


def open_shards(folder: Path, tokenizer: str | None = None, pattern: str = "*.arrow") -> ShardSet:
    """Open every shard of ``folder``; they must share one layout.

    Args:
        tokenizer: fingerprint that the shards must have been made with.
        pattern: which files are meant; all of them if not given.

    Raises:
        SourceError: no shard, a damaged one, or one of another tokenizer or layout.
    """
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise SourceError(
            f"data.shards: {folder} holds no shard; make some with `megacontext data prepare`."
        )

    # All of one tokenizer and one layout.
    shards = tuple(Shard.open(path) for path in paths)
    layout = shards[0].layout
    for shard in shards:
        if tokenizer is not None and shard.layout.tokenizer != tokenizer:
            raise SourceError(
                f"data.shards: {shard.path} was made with tokenizer {shard.layout.tokenizer} and "
                f"the model has {tokenizer}; prepare the data again with the model's tokenizer."
            )
        if shard.layout != layout:
            raise SourceError(
                f"data.shards: {shard.path} has another layout than {paths[0].name}; keep one "
                "dataset per folder."
            )

    streams: dict[str, list[np.ndarray]] = {}
    for shard in shards:
        for domain, start, stop in _document_spans(shard):
            streams.setdefault(domain, []).append(shard.tokens[start:stop])
    return ShardSet(layout, shards, streams)


def _document_spans(shard: Shard) -> list[tuple[str, int, int]]:
    """(domain, start, stop) of each document in the shard's token buffer."""
    if shard.layout.stride != shard.layout.slice_tokens:
        rows = range(len(shard.domains))
        return [(shard.domains[r], int(shard.starts[r]), int(shard.starts[r + 1])) for r in rows]
    first = np.flatnonzero(shard.offsets == 0)
    last = np.append(first[1:], len(shard.offsets))
    return [
        (shard.domains[a], int(shard.starts[a]), int(shard.starts[b]))
        for a, b in zip(first, last, strict=True)
    ]
