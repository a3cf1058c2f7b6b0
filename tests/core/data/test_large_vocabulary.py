"""Tokenizers of other models: more than 65,536 entries, and frames around every text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from megacontext.core.data.prepare import DataConfig, encode_document, prepare
from megacontext.core.data.readers import Source
from megacontext.core.data.recall.writer import RecallOptions, RecallWriter
from megacontext.core.data.shards import open_shards
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer

BUNDLED = Path(__file__).parents[3] / "core/pretrained/demo/base/tokenizer.json"
SHIFT = 62_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled tokenizer with its entries moved up behind 62,000 that no text produces."""
    plain = json.loads(BUNDLED.read_text(encoding="utf8"))
    unused = {f"<unused {i}>": i for i in range(SHIFT)}
    moved = {piece: i + SHIFT for piece, i in plain["model"]["vocab"].items()}
    plain["model"]["vocab"] = unused | moved
    for token in plain["added_tokens"]:
        token["id"] += SHIFT
    path = tmp_path_factory.mktemp("large")
    (path / "tokenizer.json").write_text(json.dumps(plain), encoding="utf8")
    return path


def test_tokens_above_16_bits_reach_the_shards_and_the_recall_text(
    folder: Path, tmp_path: Path
) -> None:
    text = "def f(x):\n    return x + 1  # twice\n" * 200
    (tmp_path / "a.txt").write_text(text, encoding="utf8")
    source = Source("text", str(tmp_path / "a.txt"), domain="code")
    prepare(DataConfig((source,), str(folder)), tmp_path / "out")
    tokenizer = load_tokenizer(folder)
    shards = open_shards(tmp_path / "out", fingerprint(tokenizer))
    (tokens,) = shards.streams["code"]
    assert int(tokens.max()) > 65_535
    assert tokenizer.decode(tokens.tolist()) == text
    writer = RecallWriter(tokenizer, "train", seed=0)
    sample = writer.sample(tokens, 512, RecallOptions(facts_max=2, scenes_max=1), 0)
    span = sample.asked[-1]
    said = tokenizer.decode(sample.tokens[span.answer_start : span.answer_stop].tolist())
    assert said.strip() == span.answer


def test_a_small_vocabulary_keeps_its_16_bits() -> None:
    assert encode_document(load_tokenizer(BUNDLED), "x = 1\n").dtype == np.uint16


def test_no_frame_cut_or_padding_of_the_model_enters_the_text(tmp_path: Path) -> None:
    framed = Tokenizer.from_file(str(BUNDLED))
    framed.post_processor = processors.TemplateProcessing("<|bos|> $A", None, [("<|bos|>", 0)])
    framed.enable_truncation(4)
    framed.enable_padding(length=16)
    framed.save(str(tmp_path / "tokenizer.json"))
    text = "one two three four five six\n"
    want = encode_document(load_tokenizer(BUNDLED), text)
    np.testing.assert_array_equal(encode_document(load_tokenizer(tmp_path), text), want)
