"""``megacontext data prepare --teacher``: what a base model says at every token of the slices.

For token t of a slice, the k likeliest next tokens and their log-probabilities given the slice up
to t. A trainer that distils the same base from whole raw windows reads them instead of running the
model; what the other tokens share is 1 minus their sum. ``teacher/shard-00000.arrow`` belongs to
``shard-00000.arrow``, row by row, and takes k * 4 bytes per token (k * 6 above 65,536 entries).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from megacontext.core.data.shards import Shard, ShardSet, token_dtype
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer
from megacontext.traces.errors import ConfigError, SourceError

__all__ = ["FOLDER", "CachedSlice", "Teacher", "TeacherCache", "write_teacher"]

FOLDER = "teacher"
_KEY = b"megacontext.teacher"
_CHUNK = 512  # positions whose logits are in memory at a time


@dataclass(frozen=True)
class Teacher:
    """The ``model`` folder whose predictions are kept, ``top_k`` of them at each token."""

    model: str
    top_k: int = 16
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= 256:
            raise ConfigError(f"teacher.top_k: {self.top_k} is outside 1 to 256.")


def write_teacher(
    out: Path,
    shards: Sequence[dict[str, object]],
    teacher: Teacher,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, object]]:
    """Write the caches of all ``shards`` (manifest entries) of ``out``; returns their entries.

    A cache that was already made from the same shard by the same model is kept. ``progress`` is
    called with tokens done.

    Raises:
        ModelError: the model cannot be loaded.
        ConfigError: it has another tokenizer, or a window shorter than a slice.
    """
    from megacontext.core.gistnet.checkpoint import base_fingerprint
    from megacontext.core.model.base import BaseModel

    base = BaseModel.load(teacher.model, device=teacher.device)
    layout = Shard.open(out / str(shards[0]["file"])).layout
    teacher_tokenizer = fingerprint(load_tokenizer(Path(teacher.model)))
    if teacher_tokenizer != layout.tokenizer:
        raise ConfigError(
            f"teacher.model: {teacher.model} has tokenizer {teacher_tokenizer} and the slices are "
            f"cut with {layout.tokenizer}; set `tokenizer` to the teacher's folder."
        )
    if base.window < layout.slice_tokens:
        raise ConfigError(
            f"teacher.model: its window of {base.window} is below slice_tokens "
            f"{layout.slice_tokens}; cut shorter slices."
        )
    (out / FOLDER).mkdir(exist_ok=True)
    source = {"base": base_fingerprint(base.embedding_matrix), "top_k": teacher.top_k}
    entries: list[dict[str, object]] = []
    for entry in shards:
        path = out / FOLDER / str(entry["file"])
        facts = {**source, "shard": entry["sha256"]}
        if not path.exists() or _facts(path) != facts:
            _write(path, Shard.open(out / path.name), base, teacher.top_k, facts)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append({"file": f"{FOLDER}/{path.name}", "sha256": digest})
        if progress is not None:
            progress(int(str(entry["tokens"])))
    for stale in sorted((out / FOLDER).glob("*.arrow")):
        if stale.name not in {str(entry["file"]) for entry in shards}:
            stale.unlink()
    return entries


def _facts(path: Path) -> dict[str, Any] | None:
    try:
        schema = pa.ipc.open_file(pa.memory_map(str(path))).schema
        facts: dict[str, Any] = json.loads((schema.metadata or {})[_KEY])
    except (OSError, KeyError, pa.ArrowInvalid, json.JSONDecodeError):
        return None  # a torn file of an interrupted run
    return facts


def _write(path: Path, shard: Shard, base: Any, top_k: int, facts: dict[str, Any]) -> None:
    import torch

    kind = token_dtype(shard.layout.vocab_size)
    partial = path.with_suffix(".tmp")
    item = pa.field("item", pa.from_numpy_dtype(kind), nullable=False)
    half = pa.field("item", pa.float16(), nullable=False)
    schema = pa.schema([("ids", pa.list_(item)), ("logp", pa.list_(half))])
    schema = schema.with_metadata({_KEY: json.dumps(facts, sort_keys=True).encode()})
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for row in range(len(shard.domains)):
            tokens = shard.tokens[shard.starts[row] : shard.starts[row + 1]]
            ids, log_probs = [], []
            with torch.inference_mode():
                x = base.embed(tokens)[None]
                hidden = base.module.base_model(inputs_embeds=x, use_cache=False).last_hidden_state
                for part in hidden[0].split(_CHUNK):
                    logits = base.module.get_output_embeddings()(part).float()
                    best = logits.log_softmax(-1).topk(top_k, dim=-1)
                    ids.append(best.indices.cpu().numpy().astype(kind).ravel())
                    log_probs.append(best.values.cpu().numpy().astype(np.float16).ravel())
            columns = [
                pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), pa.array(flat))
                for flat in (np.concatenate(ids), np.concatenate(log_probs))
            ]
            arrays = [a.cast(f.type) for a, f in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    partial.replace(path)


@dataclass(frozen=True)
class CachedSlice:
    """``tokens`` [T] of one slice; ``ids`` and ``logp`` float16 [T, k] of each next token."""

    tokens: np.ndarray
    ids: np.ndarray
    logp: np.ndarray


class TeacherCache:
    """The caches beside a set of shards, slice by slice.

    Raises:
        SourceError: a cache is missing or belongs to other shards or another base model.
    """

    def __init__(self, shards: ShardSet, base: str) -> None:
        self._shards = shards
        self._readers = []
        for shard in shards.shards:
            path = shard.path.parent / FOLDER / shard.path.name
            facts = _facts(path)
            if facts is None:
                raise SourceError(
                    f"teacher: {path} is no teacher cache; make it with "
                    "`megacontext data prepare --teacher MODEL`."
                )

            # Predictions are of one base model over the very bytes of one shard.
            digest = hashlib.sha256(shard.path.read_bytes()).hexdigest()
            if facts["base"] != base or facts["shard"] != digest:
                raise SourceError(
                    f"teacher: {path} belongs to base model {facts['base']} (this one is {base}) "
                    "or to another shard; prepare it again with --teacher."
                )
            self.top_k = int(facts["top_k"])
            self._readers.append(pa.ipc.open_file(pa.memory_map(str(path))))

        self._slices: dict[str, list[tuple[int, int]]] = {}
        for number, shard in enumerate(shards.shards):
            for row, domain in enumerate(shard.domains):
                self._slices.setdefault(domain, []).append((number, row))

    def at_least(self, length: int) -> dict[str, list[tuple[int, int]]]:
        """Slices (shard, row) of ``length`` tokens or more, by domain."""
        by_domain = {
            domain: [position for position in positions if self._length(*position) >= length]
            for domain, positions in self._slices.items()
        }
        return {domain: positions for domain, positions in sorted(by_domain.items()) if positions}

    def _length(self, shard: int, row: int) -> int:
        starts = self._shards.shards[shard].starts
        return int(starts[row + 1] - starts[row])

    def read(self, shard: int, row: int, length: int) -> CachedSlice:
        """The first ``length`` tokens of a slice."""
        tokens_of = self._shards.shards[shard]
        start = int(tokens_of.starts[row])
        batch = self._readers[shard].get_batch(row)
        ids, log_probs = (
            batch.column(c).values.to_numpy(zero_copy_only=True).reshape(-1, self.top_k)[:length]
            for c in (0, 1)
        )
        return CachedSlice(tokens_of.tokens[start : start + length], ids, log_probs)
