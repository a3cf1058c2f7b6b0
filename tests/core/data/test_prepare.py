"""Preparation: same bytes for any number of jobs and after an interruption; refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megacontext.core.data.prepare import DataConfig, encode_document, prepare
from megacontext.core.data.readers import Source
from megacontext.core.data.shards import Layout, Shard, open_shards, write_shard
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer
from megacontext.traces.errors import ConfigError, SourceError

ROOT = Path(__file__).parents[3]
TOKENIZER_FOLDER = ROOT / "core/pretrained/demo/base"
TOKENIZER = load_tokenizer(TOKENIZER_FOLDER)


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """Seven documents over two sources and about four shards of 128-token slices."""
    lines = [
        json.dumps({"doc": f"d{i}", "domain": "prose", "text": f"Line {i} says {j}.\n" * (30 + i)})
        for i in range(5)
        for j in [i * 7]
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf8")
    (tmp_path / "b.txt").write_text("def f(x):\n    return x + 1\n" * 40, encoding="utf8")
    sources = (
        Source("jsonl", str(tmp_path / "a.jsonl")),
        Source("text", str(tmp_path / "b.txt"), domain="code"),
    )
    return DataConfig(
        sources, str(TOKENIZER_FOLDER), slice_tokens=128, stride=128, shard_chars=1200
    )


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_shards_hold_each_document_between_its_marks_and_slices_start_at_block_multiples(
    config: DataConfig, tmp_path: Path
) -> None:
    manifest = prepare(config, tmp_path / "out")
    shards = open_shards(tmp_path / "out", fingerprint(TOKENIZER))
    assert len(shards.shards) > 2
    assert manifest["tokens"] == sum(len(s.tokens) for s in shards.shards)
    (code,) = shards.streams["code"]
    text = (tmp_path / "b.txt").read_text(encoding="utf8")
    np.testing.assert_array_equal(code, encode_document(TOKENIZER, text))
    assert TOKENIZER.decode(code.tolist(), skip_special_tokens=False) == f"<|bos|>{text}<|eos|>"
    for shard in shards.shards:
        assert not (shard.offsets % shard.layout.block_size).any()
        lengths = np.diff(shard.starts)
        assert lengths.max() <= 128
        full = shard.offsets[1:] > 0  # a slice that is continued is full
        assert (lengths[:-1][full] == 128).all()


def test_metadata_names_tokenizer_stride_horizon_and_the_text_it_came_from(
    config: DataConfig, tmp_path: Path
) -> None:
    prepare(config, tmp_path / "out")
    shard = Shard.open(tmp_path / "out" / "shard-00000.arrow")
    assert shard.layout == Layout(fingerprint(TOKENIZER), 8192, 32, 128, 128, 64)
    assert shard.documents[0] == "d0"
    assert len(shard.note) == 16


def test_two_jobs_write_the_bytes_of_one(config: DataConfig, tmp_path: Path) -> None:
    prepare(config, tmp_path / "one", jobs=1)
    prepare(config, tmp_path / "two", jobs=2)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def test_an_interrupted_preparation_continues_and_ends_with_the_same_bytes(
    config: DataConfig, tmp_path: Path
) -> None:
    prepare(config, tmp_path / "whole")
    seen: list[int] = []

    def stop_after_two(chars: int) -> None:
        seen.append(chars)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config, tmp_path / "cut", progress=stop_after_two)
    first = tmp_path / "cut" / "shard-00000.arrow"
    second = tmp_path / "cut" / "shard-00001.arrow"
    kept = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:50])  # torn, as by a crash of the disk
    prepare(config, tmp_path / "cut")
    assert first.stat().st_mtime_ns == kept
    assert _bytes(tmp_path / "cut") == _bytes(tmp_path / "whole")


def test_a_changed_text_is_prepared_again_and_surplus_shards_go(
    config: DataConfig, tmp_path: Path
) -> None:
    prepare(config, tmp_path / "out")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "Only this.\n"}), encoding="utf8")
    prepare(config, tmp_path / "out")
    shards = open_shards(tmp_path / "out")
    assert [d for s in shards.shards for d in s.documents] == ["a.jsonl:1", *["b.txt"] * 4][
        : sum(len(s.documents) for s in shards.shards)
    ]
    assert "prose" not in shards.streams


def test_shards_of_another_tokenizer_are_refused(config: DataConfig, tmp_path: Path) -> None:
    prepare(config, tmp_path / "out")
    with pytest.raises(SourceError, match=r"made with tokenizer .* and the model has 0123"):
        open_shards(tmp_path / "out", "0123")


def test_empty_folders_shards_and_documents_are_refused(config: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no shard"):
        open_shards(tmp_path)
    write_shard(tmp_path / "shard-00000.arrow", [], Layout("t", 8192), "")
    with pytest.raises(SourceError, match="empty shard"):
        open_shards(tmp_path)
    (tmp_path / "b.txt").write_text(" \n", encoding="utf8")
    with pytest.raises(SourceError, match=r"document 'b\.txt' is empty"):
        prepare(config, tmp_path / "out")
    with pytest.raises(ConfigError, match="the list is empty"):
        prepare(replace(config, sources=()), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 100}, r"layout\.stride: 100 is no multiple of block_size 32"),
        ({"stride": 256}, r"layout\.stride: 256 is above slice_tokens"),
        ({"horizon": 16}, r"layout\.horizon: 16 is outside 32 to 128"),
    ],
)
def test_impossible_layouts_are_refused(
    config: DataConfig, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(replace(config, **change), tmp_path / "out")
