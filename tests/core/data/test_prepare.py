"""Preparation: same bytes for any number of jobs and after an interruption; refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from megacontext.core.data.cli import app
from megacontext.core.data.prepare import DataConfig, encode_document, prepare
from megacontext.core.data.readers import Source
from megacontext.core.data.recall_shards import RecallText
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

    def stop_after_two(what: str, amount: int) -> None:
        assert what == "characters"
        seen.append(amount)
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


@pytest.fixture
def with_recall(config: DataConfig) -> DataConfig:
    """The same text in 256-token slices, and recall windows for half of all tokens."""
    recall = RecallText(share=0.5, windows_per_shard=4, facts_max=3)
    return replace(config, slice_tokens=256, stride=256, recall=recall)


def test_recall_text_is_a_domain_of_whole_windows_that_ask_for_planted_facts(
    with_recall: DataConfig, tmp_path: Path
) -> None:
    manifest = prepare(with_recall, tmp_path / "out")
    shards = open_shards(tmp_path / "out", fingerprint(TOKENIZER))
    windows = shards.streams["recall"]
    assert {len(window) for window in windows} == {256}
    text = sum(shards.tokens(domain) for domain in ("prose", "code"))
    assert shards.tokens("recall") == pytest.approx(text, abs=256)
    assert manifest["tokens"] == text + shards.tokens("recall")
    assert [s.path.name for s in shards.shards if s.path.name.startswith("recall")] == [
        f"recall-{n:05d}.arrow" for n in range(-(-len(windows) // 4))
    ]
    said = [TOKENIZER.decode(window.tolist()) for window in windows]
    assert len(set(said)) == len(said)
    assert all(" says " in text or "def f" in text for text in said)  # planted in real text
    assert sum("?" in text or "Question" in text for text in said) >= len(said) // 3


def test_recall_text_has_the_same_bytes_for_two_jobs_and_after_a_kill(
    with_recall: DataConfig, tmp_path: Path
) -> None:
    prepare(with_recall, tmp_path / "one")
    prepare(with_recall, tmp_path / "two", jobs=2)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    kept = tmp_path / "two" / "recall-00000.arrow"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "two" / "recall-00001.arrow").unlink()
    (tmp_path / "two" / "manifest.json").unlink()
    prepare(with_recall, tmp_path / "two")
    assert kept.stat().st_mtime_ns == stamp
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def test_recall_text_follows_its_options_and_the_text_and_goes_when_not_asked_for(
    with_recall: DataConfig, tmp_path: Path
) -> None:
    prepare(with_recall, tmp_path / "out")
    before = _bytes(tmp_path / "out")["recall-00000.arrow"]
    assert with_recall.recall is not None
    other = replace(with_recall, recall=replace(with_recall.recall, split="heldout"))
    prepare(other, tmp_path / "out")
    assert _bytes(tmp_path / "out")["recall-00000.arrow"] != before
    prepare(with_recall, tmp_path / "out")
    assert _bytes(tmp_path / "out")["recall-00000.arrow"] == before
    (tmp_path / "b.txt").write_text("def f(x):\n    return x - 1\n" * 60, encoding="utf8")
    prepare(with_recall, tmp_path / "out")
    assert _bytes(tmp_path / "out")["recall-00000.arrow"] != before
    prepare(replace(with_recall, recall=None), tmp_path / "out")
    assert not list((tmp_path / "out").glob("recall-*"))


def test_the_command_writes_recall_text_when_asked(config: DataConfig, tmp_path: Path) -> None:
    file = tmp_path / "data.yaml"
    sources = [{"kind": "text", "path": str(tmp_path / "b.txt"), "domain": "code"}]
    value = {"tokenizer": str(TOKENIZER_FOLDER), "sources": sources, "slice_tokens": 256}
    file.write_text(json.dumps({**value, "stride": 256}), encoding="utf8")
    arguments = ["prepare", "--config", str(file), "--out", str(tmp_path / "out"), "--json"]
    built = CliRunner().invoke(app, [*arguments, "--recall", "--set", "recall.share=0.9"])
    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["recall"]["share"] == 0.9
    assert "recall" in open_shards(tmp_path / "out").streams
    plain = CliRunner().invoke(app, arguments)
    assert json.loads(plain.stdout)["recall"] is None


def test_sources_without_a_document_are_refused(config: DataConfig, tmp_path: Path) -> None:
    none = Source("packages", names=("no_such_package",), missing_ok=True)
    with pytest.raises(SourceError, match="they hold no document"):
        prepare(replace(config, sources=(none,)), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": 1.0}, r"recall\.share: 1 is not between 0 and 1"),
        ({"gappy": 2.0}, r"recall\.gappy: 2 is outside 0 to 1"),
        ({"length": 300}, r"recall\.length: 300 is no multiple of block_size 32"),
        ({"length": 512}, r"recall\.length: 512 .* to slice_tokens 256"),
        ({"length": 128}, r"recall\.length: 128 .* from 256"),
    ],
)
def test_impossible_recall_text_is_refused(
    with_recall: DataConfig, tmp_path: Path, change: dict[str, float], message: str
) -> None:
    def run() -> None:
        recall = RecallText(**change)  # type: ignore[arg-type]
        prepare(replace(with_recall, recall=recall), tmp_path / "out")

    with pytest.raises(ConfigError, match=message):
        run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 100}, r"layout\.stride: 100 is no multiple of block_size 32"),
        ({"stride": 256}, r"layout\.stride: 256 is above slice_tokens"),
    ],
)
def test_impossible_layouts_are_refused(
    config: DataConfig, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(replace(config, **change), tmp_path / "out")
