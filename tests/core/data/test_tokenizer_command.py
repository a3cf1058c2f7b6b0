"""``megacontext data tokenizer``: a tokenizer that ``data prepare`` takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacontext.core.cli.app import app, guard
from megacontext.core.data.tokenizer import load_tokenizer

TEXT = "for each row of the table the sum of the row is added to the total\n" * 40


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text(TEXT)
    path = tmp_path / "data.yaml"
    path.write_text(
        f"sources: [{{kind: text, path: {tmp_path}/a.txt}}]\ntokenizer: {tmp_path}/own\n"
        "slice_tokens: 64\nstride: 64\n"
    )
    return path


def call(*arguments: object) -> int:
    return guard(app, [str(a) for a in ("data", *arguments)])


def test_a_tokenizer_is_trained_and_shards_are_made_with_it(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    assert call("tokenizer", "--config", config, "--out", own, "--vocab-size", 300) == 0
    assert capsys.readouterr().out == f"{own}: 300 tokens\n"
    tokenizer = load_tokenizer(own)
    assert tokenizer.decode(tokenizer.encode(TEXT).ids) == TEXT
    assert len(tokenizer.encode(TEXT).ids) < 0.7 * len(TEXT)
    assert json.loads((own / "tokenizer_config.json").read_text())["model_max_length"] == 1024

    assert call("prepare", "--config", config, "--out", tmp_path / "shards") == 0
    assert "1 shards" in capsys.readouterr().out


def test_a_tokenizer_that_is_there_is_not_overwritten(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("tokenizer", "--config", config, "--out", tmp_path / "own", "--vocab-size", 300)
    assert call(*arguments) == 0
    before = (tmp_path / "own" / "tokenizer.json").read_bytes()
    assert call(*arguments) == 2
    assert "holds a tokenizer already; name another folder" in capsys.readouterr().err
    assert (tmp_path / "own" / "tokenizer.json").read_bytes() == before


def test_sources_without_text_are_named(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call("tokenizer", "--config", config, "--out", tmp_path / "x", "--set", "sources=[]")
    assert code == 2
    assert "sources: they hold no document" in capsys.readouterr().err
