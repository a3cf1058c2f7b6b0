"""Tokenizer of a base model: numpy ids in, texts out that can be printed as they arrive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PieceStream", "Tokenizer"]

_UNFINISHED = "\ufffd"


class Tokenizer:
    """A Hugging Face tokenizer without special tokens added or cleaned up.

    ``hf`` is the wrapped tokenizer; ``eos_id`` is the end-of-sequence id or None.
    """

    def __init__(self, hf: Any) -> None:
        self.hf = hf
        # A history is longer than any window: silence the length warning.
        hf.model_max_length = int(1e30)

    def __len__(self) -> int:
        return len(self.hf)

    @property
    def eos_id(self) -> int | None:
        value = self.hf.eos_token_id
        return None if value is None else int(value)

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Token ids of ``text``, U32[t]; no special tokens."""
        return np.asarray(self.hf.encode(text, add_special_tokens=False), dtype=np.uint32)

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """Text of ``ids``, special tokens included."""
        return str(
            self.hf.decode([int(i) for i in ids], clean_up_tokenization_spaces=False)
            if len(ids)
            else ""
        )

    def pieces(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> list[str]:
        """One text per token whose concatenation is ``decode(ids)``.

        A token that ends inside a character gives an empty piece; the token that completes the
        character carries it.
        """
        stream = self.stream()
        texts = stream.push(ids)
        if texts:
            texts[-1] += stream.flush()
        return texts

    def stream(self) -> PieceStream:
        """A stream of pieces over several calls, e.g. one per block."""
        return PieceStream(self)


class PieceStream:
    """Texts of tokens as they arrive; see :meth:`Tokenizer.pieces`.

    A token's text may depend on its left neighbour, so each step decodes the tokens since the
    last complete piece twice, with and without the new one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # tokens of the last complete piece
        self._pending: list[int] = []  # tokens after it

    def push(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> list[str]:
        """Pieces of ``ids``, one each; unfinished characters wait for later tokens."""
        return [self._push_one(int(token)) for token in ids]

    def flush(self) -> str:
        """What still waits, with U+FFFD for unfinished characters."""
        text = self._new_text()
        self._context, self._pending = self._context + self._pending, []
        return text

    def _push_one(self, token: int) -> str:
        self._pending.append(token)
        text = self._new_text()
        # Four bytes are the longest character; a longer wait is a real U+FFFD in the text.
        if text.endswith(_UNFINISHED) and len(self._pending) < 5:
            return ""
        self._context, self._pending = self._pending, []
        return text

    def _new_text(self) -> str:
        if not self._pending:
            return ""
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(before) :]
