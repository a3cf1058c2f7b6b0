"""Byte-level BPE: training, loading, and the fingerprint that ties shards to one tokenizer.

Digits are single tokens, so that a planted number is copied digit by digit and never depends on
how a merge happened to cut it. Text never produces a special token: a document that contains
the characters of one is encoded as plain characters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from megacontext.traces.errors import ModelError

__all__ = [
    "BOS",
    "EOS",
    "GIST",
    "PAD",
    "REC",
    "SPECIAL_TOKENS",
    "chunks",
    "fingerprint",
    "load_tokenizer",
    "save_tokenizer",
    "train_tokenizer",
]

BOS, EOS, PAD, REC, GIST = "<|bos|>", "<|eos|>", "<|pad|>", "<|rec|>", "<|gist|>"
# <|rec|> starts the reconstruction of a block from its gist; <|gist|> marks a gist's place in
# token sequences. The reserved ones keep the vocabulary stable when a later stage needs a mark.
SPECIAL_TOKENS = (
    BOS,
    EOS,
    PAD,
    REC,
    GIST,
    "<|user|>",
    "<|assistant|>",
    *(f"<|reserved_{i}|>" for i in range(9)),
)

# Words with an optional leading non-letter, one digit at a time, punctuation with its line end,
# line ends with their indentation kept apart from words (after cl100k's pattern).
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192) -> Tokenizer:
    """A byte-level BPE over ``texts``; special tokens take ids 0..15, then the 256 bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, window: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` as Hugging Face expects them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": window,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf8")


def load_tokenizer(path: Path) -> Tokenizer:
    """Load ``tokenizer.json`` (or a folder that holds one).

    Raises:
        ModelError: there is no readable tokenizer at ``path``.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ModelError(f"tokenizer: {file} does not exist; name a folder with tokenizer.json.")
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf8"))
    except (ValueError, Exception) as error:  # the library raises bare Exception
        raise ModelError(
            f"tokenizer: {file} is no Hugging Face tokenizer ({error}); name another file."
        ) from error
    tokenizer.encode_special_tokens = True
    # Texts are encoded in pieces: no model's own frame around each, no cut, no padding.
    tokenizer.post_processor = None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def fingerprint(tokenizer: Tokenizer) -> str:
    """16 hex digits of the SHA-256 over the tokenizer's own JSON; equal means equal encoding."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:16]


def chunks(text: str, size: int = 65_536) -> Iterator[str]:
    """Cut ``text`` near every ``size`` characters where the tokenizer cuts anyway.

    A cut lies behind a line end and before a character that is no white space; the pattern
    never joins those two, so the tokens are those of the uncut text.
    """
    start = 0
    while start < len(text):
        stop = start + size
        while stop < len(text):
            stop = text.find("\n", stop)
            if stop < 0:
                stop = len(text)
                break
            stop += 1
            if stop < len(text) and not text[stop].isspace():
                break
        yield text[start : min(stop, len(text))]
        start = stop
