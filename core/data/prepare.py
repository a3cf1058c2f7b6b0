"""``megacontext data prepare``: sources to shards, in parallel, resumable, always the same bytes.

Documents are grouped in reading order into units of about ``shard_chars`` characters; a unit is
one shard and one task of the process pool. What a unit becomes depends on its texts, the
tokenizer and the layout alone, so neither ``jobs`` nor an interruption changes any byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from megacontext.core.data.readers import Document, Source, read
from megacontext.core.data.shards import Layout, Shard, token_dtype, write_shard
from megacontext.core.data.tokenizer import BOS, EOS, chunks, fingerprint, load_tokenizer
from megacontext.traces.errors import ConfigError, SourceError

__all__ = ["DataConfig", "encode_document", "prepare"]

Progress = Callable[[int], None]  # called with characters done


@dataclass(frozen=True)
class DataConfig:
    """What to prepare: sources, the tokenizer's folder and the layout of the slices."""

    sources: tuple[Source, ...]
    tokenizer: str
    out: str = ""
    block_size: int = 32
    slice_tokens: int = 4096
    stride: int = 4096
    horizon: int = 64
    shard_chars: int = 6_000_000


def encode_document(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Tokens of ``text``, in the shards' type, between the begin and end marks if there are any."""
    parts = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(chunks(text)))]
    ids = [i for part in parts for i in part]
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    kind = token_dtype(tokenizer.get_vocab_size())
    return np.array([*_mark(bos), *ids, *_mark(eos)], kind)


def _mark(token: int | None) -> list[int]:
    return [] if token is None else [token]


def _units(documents: Iterable[Document], shard_chars: int) -> Iterator[list[Document]]:
    unit: list[Document] = []
    size = 0
    for document in documents:
        if not document.text.strip():
            raise SourceError(
                f"sources: document {document.name!r} is empty; leave it out of the source."
            )
        if unit and size + len(document.text) > shard_chars:
            yield unit
            unit, size = [], 0
        unit.append(document)
        size += len(document.text)
    if unit:
        yield unit


def _note(unit: list[Document], layout: Layout) -> str:
    digest = hashlib.sha256(json.dumps(asdict(layout), sort_keys=True).encode())
    for document in unit:
        digest.update(f"\0{document.name}\0{document.domain}\0".encode())
        digest.update(document.text.encode("utf8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _run_unit(
    unit: list[Document], path: Path, tokenizer: Path, layout: Layout
) -> dict[str, object]:
    note = _note(unit, layout)
    if path.exists():
        try:
            shard = Shard.open(path)
        except SourceError:
            shard = None  # a torn file of an interrupted run: written again below
        if shard is not None and shard.note == note:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            rows, tokens = len(shard.domains), len(shard.tokens)
            return {"file": path.name, "rows": rows, "tokens": tokens, "sha256": digest}
    loaded = load_tokenizer(tokenizer)
    encoded = [(d.name, d.domain, encode_document(loaded, d.text)) for d in unit]
    return write_shard(path, encoded, layout, note)


def prepare(
    config: DataConfig, out: Path, *, jobs: int = 1, progress: Progress | None = None
) -> dict[str, object]:
    """Tokenize all sources into ``out`` and write its ``manifest.json``; returns the manifest.

    A shard that already holds the same texts under the same layout is kept.

    Raises:
        ConfigError: no source. SourceError: a source is missing, empty or not UTF-8.
    """
    if not config.sources:
        raise ConfigError("sources: the list is empty; name at least one source of text.")
    tokenizer_path = Path(config.tokenizer)
    tokenizer = load_tokenizer(tokenizer_path)
    layout = Layout(
        fingerprint(tokenizer),
        tokenizer.get_vocab_size(),
        config.block_size,
        config.slice_tokens,
        config.stride,
        config.horizon,
    )
    out.mkdir(parents=True, exist_ok=True)
    entries: dict[int, dict[str, object]] = {}

    def tasks() -> Iterator[tuple[int, list[Document], Path]]:
        number = 0
        for source in config.sources:
            for unit in _units(read(source), config.shard_chars):
                yield number, unit, out / f"shard-{number:05d}.arrow"
                number += 1

    def done(number: int, unit_chars: int, entry: dict[str, object]) -> None:
        entries[number] = entry
        if progress is not None:
            progress(unit_chars)

    if jobs <= 1:
        for number, unit, path in tasks():
            entry = _run_unit(unit, path, tokenizer_path, layout)
            done(number, sum(len(d.text) for d in unit), entry)
    else:
        _run_pool(tasks(), jobs, tokenizer_path, layout, done)
    for stale in sorted(out.glob("shard-*.arrow"))[len(entries) :]:
        stale.unlink()
    ordered = [entries[number] for number in sorted(entries)]
    manifest: dict[str, object] = {
        "layout": asdict(layout),
        "sources": [asdict(source) for source in config.sources],
        "shards": ordered,
        "tokens": sum(int(str(entry["tokens"])) for entry in ordered),
    }
    partial = out / "manifest.tmp"
    partial.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf8")
    partial.replace(out / "manifest.json")
    return manifest


def _run_pool(
    tasks: Iterator[tuple[int, list[Document], Path]],
    jobs: int,
    tokenizer: Path,
    layout: Layout,
    done: Callable[[int, int, dict[str, object]], None],
) -> None:
    """Run the tasks in ``jobs`` processes with at most two waiting texts per process."""
    waiting: dict[Future[dict[str, object]], tuple[int, int]] = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for number, unit, path in tasks:
            future = pool.submit(_run_unit, unit, path, tokenizer, layout)
            waiting[future] = (number, sum(len(d.text) for d in unit))
            while len(waiting) > 2 * jobs:
                _collect(waiting, done)
        while waiting:
            _collect(waiting, done)


def _collect(
    waiting: dict[Future[dict[str, object]], tuple[int, int]],
    done: Callable[[int, int, dict[str, object]], None],
) -> None:
    finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in finished:
        number, chars = waiting.pop(future)
        done(number, chars, future.result())
