"""``megacontext data prepare``: sources to shards, in parallel, resumable, always the same bytes.

Documents are grouped in reading order into units of about ``shard_chars`` characters; a unit is
one shard and one job of the process pool. What a unit becomes depends on its texts, the
tokenizer and the layout alone, so neither ``jobs`` nor an interruption changes any byte. Recall
text comes last, for it is planted into the text shards (see ``recall_shards``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from megacontext.core.data.jobs import Entry, ShardJob, run_jobs
from megacontext.core.data.readers import Document, Source, read
from megacontext.core.data.recall_shards import RecallText, recall_units, write_recall
from megacontext.core.data.shards import Layout, token_dtype, write_shard
from megacontext.core.data.teacher_cache import Teacher, write_teacher
from megacontext.core.data.tokenizer import BOS, EOS, chunks, fingerprint, load_tokenizer
from megacontext.traces.errors import ConfigError, SourceError

__all__ = ["DataConfig", "encode_document", "prepare"]

Progress = Callable[[str, int], None]  # called with what was done, and how much of it


@dataclass(frozen=True)
class DataConfig:
    """What to prepare: sources, the tokenizer's folder and the layout of the slices.

    Attributes:
        stride: tokens from a slice's start to the next one's; below ``slice_tokens`` they overlap.
        shard_chars: characters of text per file.
        recall: synthetic recall text beside the sources; none if not given.
        teacher: a base model whose predictions on all slices are kept; none if not given.
    """

    sources: tuple[Source, ...]
    tokenizer: str
    out: str = ""
    block_size: int = 32
    slice_tokens: int = 4096
    stride: int = 4096
    shard_chars: int = 6_000_000
    recall: RecallText | None = None
    teacher: Teacher | None = None


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


def _write_text(
    unit: list[Document], path: Path, tokenizer: Path, layout: Layout, note: str
) -> Entry:
    loaded = load_tokenizer(tokenizer)
    encoded = [(d.name, d.domain, encode_document(loaded, d.text)) for d in unit]
    return write_shard(path, encoded, layout, note)


def prepare(
    config: DataConfig, out: Path, *, jobs: int = 1, progress: Progress | None = None
) -> dict[str, object]:
    """Tokenize all sources into ``out`` and write its ``manifest.json``; returns the manifest.

    A shard that already holds the same texts under the same layout is kept.

    Args:
        progress: called with ``characters``, ``recall tokens`` or ``teacher tokens`` and how many.

    Raises:
        ConfigError: no source, or an impossible layout.
        SourceError: a source is missing, empty or not UTF-8.
        ModelError: the teacher cannot be loaded.
    """
    if not config.sources:
        raise ConfigError("sources: the list is empty; name at least one source of text.")
    tokenizer = Path(config.tokenizer)
    loaded = load_tokenizer(tokenizer)
    layout = Layout(
        fingerprint(loaded),
        loaded.get_vocab_size(),
        config.block_size,
        config.slice_tokens,
        config.stride,
    )
    if config.recall is not None:
        config.recall.window(layout)  # refused before the text is read
    out.mkdir(parents=True, exist_ok=True)

    def progress_of(label: str) -> Callable[[int], None] | None:
        return None if progress is None else partial(progress, label)

    shards = run_jobs(_text_jobs(config, layout, out), jobs, progress_of("characters"))
    if not shards:
        raise SourceError("sources: they hold no document; name a source with text.")
    _remove_surplus(out, "shard", len(shards))
    recall: list[Entry] = []
    if config.recall is not None:
        planned = _recall_jobs(config.recall, tokenizer, layout, out, shards)
        recall = run_jobs(planned, jobs, progress_of("recall tokens"))
    _remove_surplus(out, "recall", len(recall))
    everything = [*shards, *recall]
    caches: list[Entry] = []
    if config.teacher is not None:
        caches = write_teacher(out, everything, config.teacher, progress_of("teacher tokens"))
    manifest: dict[str, object] = {
        "layout": asdict(layout),
        "sources": [asdict(source) for source in config.sources],
        "recall": None if config.recall is None else asdict(config.recall),
        "teacher": None if config.teacher is None else asdict(config.teacher),
        "teacher_caches": caches,
        "shards": everything,
        "tokens": sum(int(str(entry["tokens"])) for entry in everything),
    }
    partial_file = out / "manifest.tmp"
    partial_file.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf8")
    partial_file.replace(out / "manifest.json")
    return manifest


def _remove_surplus(out: Path, name: str, count: int) -> None:
    for stale in sorted(out.glob(f"{name}-*.arrow"))[count:]:
        stale.unlink()


def _text_jobs(config: DataConfig, layout: Layout, out: Path) -> Iterator[ShardJob]:
    number = 0
    for source in config.sources:
        for unit in _units(read(source), config.shard_chars):
            path, note = out / f"shard-{number:05d}.arrow", _note(unit, layout)
            write = partial(_write_text, unit, path, Path(config.tokenizer), layout, note)
            yield ShardJob(path, note, sum(len(d.text) for d in unit), write)
            number += 1


def _recall_jobs(
    recall: RecallText, tokenizer: Path, layout: Layout, out: Path, text: list[Entry]
) -> Iterator[ShardJob]:
    for number, unit in enumerate(recall_units(recall, layout, text)):
        path = out / f"recall-{number:05d}.arrow"
        write = partial(write_recall, unit, recall, path, tokenizer, layout)
        size = (unit.stop - unit.first) * recall.window(layout)
        yield ShardJob(path, unit.note, size, write)
