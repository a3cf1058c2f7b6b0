"""The tokenizer: lossless, digit by digit, cut-invariant, blind to special tokens in text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.core.data.tokenizer import (
    BOS,
    SPECIAL_TOKENS,
    chunks,
    fingerprint,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from megacontext.traces.errors import ModelError

FOLDER = Path(__file__).parents[3] / "core/pretrained/demo/base"
TOKENIZER = load_tokenizer(FOLDER)
TEXT = (Path(__file__).parents[3] / "core/data/tokenizer.py").read_text(encoding="utf8")


def test_the_bundled_tokenizer_has_8192_entries_and_its_special_tokens_first() -> None:
    assert TOKENIZER.get_vocab_size() == 8192
    assert [TOKENIZER.id_to_token(i) for i in range(16)] == list(SPECIAL_TOKENS)


@given(st.text())
@settings(max_examples=80, deadline=None)
def test_any_text_survives_encoding(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_every_digit_is_a_token_of_its_own() -> None:
    tokens = TOKENIZER.encode("code 48213, a1b22").tokens
    assert [t for t in tokens if any(c.isdigit() for c in t)] == list("4821312" + "2")


def test_text_that_looks_like_a_special_token_is_plain_text() -> None:
    bos = TOKENIZER.token_to_id(BOS)
    assert bos not in TOKENIZER.encode(f"x {BOS} y").ids


@given(
    st.lists(st.sampled_from(["a b.\n", "\n", "  x = 1\n", "def f():\n", "    ", "9\n\n", "é "]))
)
@settings(max_examples=80, deadline=None)
def test_cutting_a_text_never_changes_its_tokens(parts: list[str]) -> None:
    text = "".join(parts)
    cut = list(chunks(text, size=7))
    assert "".join(cut) == text
    assert [i for part in cut for i in TOKENIZER.encode(part).ids] == TOKENIZER.encode(text).ids


def test_training_is_deterministic_and_the_fingerprint_tells_tokenizers_apart(
    tmp_path: Path,
) -> None:
    first, again = (train_tokenizer([TEXT], 400) for _ in range(2))
    other = train_tokenizer([TEXT], 401)
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)
    save_tokenizer(first, tmp_path, 128)
    assert fingerprint(load_tokenizer(tmp_path)) == fingerprint(first)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json does not exist"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf8")
    with pytest.raises(ModelError, match="is no Hugging Face tokenizer"):
        load_tokenizer(tmp_path)
