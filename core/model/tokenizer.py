"""Tokenizer of a base model: numpy ids in, texts out that can be printed as they arrive."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from megacontext.core.model.chat import ChatFormat, chat_format
from megacontext.traces.errors import ModelError

__all__ = ["PieceStream", "TextRules", "Tokenizer"]

_UNFINISHED = "\ufffd"


@dataclass(frozen=True)
class TextRules:
    """How text becomes tokens.

    Attributes:
        special_tokens: a special token's name in a text gives that token; else ordinary tokens.
        bos: whether a history begins with the beginning-of-sequence token: ``auto`` (where the
            tokenizer puts it before a text by itself), ``on`` or ``off``.
        chat: whether questions and turns are rendered with the model's chat template: ``auto``
            (where it has one), ``on`` or ``off``.
    """

    special_tokens: bool = False
    bos: str = "auto"
    chat: str = "auto"


class Tokenizer:
    """A Hugging Face tokenizer whose texts may come in pieces.

    Nothing is added to a piece: no special token and no leading space, which some tokenizers put
    before every string. ``hf`` is the wrapped tokenizer.

    Args:
        rules: see :class:`TextRules`.
        end_ids: tokens that end a reply beside the tokenizer's own end-of-sequence token.

    Raises:
        ModelError: ``bos`` or ``chat`` is on but the model has none.
    """

    def __init__(
        self, hf: Any, rules: TextRules | None = None, end_ids: Iterable[int] = ()
    ) -> None:
        self.hf = hf
        self.rules = rules or TextRules()
        # A history is longer than any window: silence the length warning.
        hf.model_max_length = int(1e30)
        self._backend, self._anchor = _without_prefix(hf)
        # Byte-level decoders join bytes, whatever stands beside them: texts by token id.
        decoder = None if self._backend is None else self._backend.decoder
        self._byte_level = isinstance(decoder, tokenizers.decoders.ByteLevel) and not self._anchor
        self._texts: dict[int, str] = {}
        self.chat = self._chat()
        self.start_ids = self._start()
        self.end_ids = frozenset(end_ids)
        self.end_ids |= {self.eos_id} if self.eos_id is not None else set()
        if self.chat is not None and self.chat.close:
            closing = next(iter(self._encode(self.chat.close, special=True)), None)
            token = hf.added_tokens_decoder.get(closing)
            if closing is not None and token is not None and token.special:
                self.end_ids |= {closing}

    def __len__(self) -> int:
        return len(self.hf)

    @property
    def eos_id(self) -> int | None:
        value = self.hf.eos_token_id
        return None if value is None else int(value)

    # -- text to tokens -------------------------------------------------------------------------

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Token ids of a piece of text, U32[t]."""
        return np.asarray(self._encode(text, self.rules.special_tokens), dtype=np.uint32)

    def encode_history(self, text: str) -> NDArray[np.uint32]:
        """Token ids of a whole history, U32[t]: with the token that begins a sequence, if any."""
        start = np.asarray(self.start_ids, dtype=np.uint32)
        return np.concatenate([start, self.encode(text)])

    def encode_spans(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """:meth:`encode_history` and the character span of each token, I64[t, 2].

        Raises:
            ModelError: the tokenizer gives no character offsets.
        """
        if self._backend is None:
            raise ModelError(
                f"the tokenizer {type(self.hf).__name__} gives no character offsets; use a model "
                "with a tokenizer.json."
            )
        self._backend.encode_special_tokens = not self.rules.special_tokens
        encoding = self._backend.encode(text, add_special_tokens=False)
        start = self.start_ids
        ids = np.asarray([*start, *encoding.ids], dtype=np.uint32)
        spans = [*((0, 0) for _ in start), *encoding.offsets]
        return ids, np.asarray(spans, dtype=np.int64).reshape(-1, 2)

    def turn(self, text: str, reply_end: int | None = None) -> NDArray[np.uint32]:
        """Token ids of a user's question or turn, up to where the reply begins, U32[t].

        With a chat format the text stands inside a user turn; without one it is taken as it is.

        Args:
            text: what the user says.
            reply_end: the last token of the model's reply just before this turn, if there is one;
                the format's end of a reply is completed.
        """
        if self.chat is None:
            return self.encode(text)
        close = list(self._encode(self.chat.close, special=True)) if reply_end is not None else []
        if reply_end in close:
            close = close[close.index(reply_end) + 1 :]
        before, within, after = self.chat.around(text)
        return np.asarray(
            [
                *close,
                *self._encode(before, special=True),
                *self._encode(within, self.rules.special_tokens),
                *self._encode(after, special=True),
            ],
            dtype=np.uint32,
        )

    def _encode(self, text: str, special: bool) -> Sequence[int]:
        if not text:
            return []
        if self._backend is not None:
            self._backend.encode_special_tokens = not special
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
            return ids
        slow: list[int] = self.hf.encode(
            text, add_special_tokens=False, split_special_tokens=not special
        )
        return slow

    def _chat(self) -> ChatFormat | None:
        if self.rules.chat == "off":
            return None
        found = chat_format(self.hf)
        if found is None and self.rules.chat == "on":
            raise ModelError(
                "model.chat is on but the tokenizer has no usable chat template; set it to auto "
                "or off"
            )
        return found

    def _start(self) -> tuple[int, ...]:
        bos = self.hf.bos_token_id
        if self.rules.bos == "on" and bos is None:
            raise ModelError(
                "model.bos is on but the tokenizer has no beginning-of-sequence token; set it to "
                "auto or off"
            )
        if bos is None or self.rules.bos == "off":
            return ()
        own = list(self.hf("a")["input_ids"])[:1] == [bos]
        own = own or bool(self.hf.init_kwargs.get("add_bos_token"))
        return (int(bos),) if self.rules.bos == "on" or own else ()

    # -- tokens to text -------------------------------------------------------------------------

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """Text of ``ids``, special tokens included."""
        if not len(ids):
            return ""
        text = self._decode([*self._anchor, *(int(i) for i in ids)])
        return text[len(self._decode(self._anchor)) :] if self._anchor else text

    def _decode(self, ids: list[int]) -> str:
        return str(self.hf.decode(ids, clean_up_tokenization_spaces=False))

    def context_free_text(self, token: int) -> str | None:
        """Text of a token that is the same in any context; None where the context matters."""
        if not self._byte_level:
            return None
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = self._decode([token])
        return None if _UNFINISHED in text else text

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


def _without_prefix(hf: Any) -> tuple[tokenizers.Tokenizer | None, list[int]]:
    """(backend that puts no space before a string, tokens that stand before a decoded string).

    Decoders of such tokenizers take one leading space away, so there something has to stand
    before. A tokenizer of the slow kind has no backend and stays as it is.
    """
    if not getattr(hf, "is_fast", False):
        return None, []
    backend: tokenizers.Tokenizer = hf.backend_tokenizer
    state = json.loads(backend.to_str()) if _may_prefix(backend) else {}
    changed = [_drop_prefix(state, part) for part in ("normalizer", "pre_tokenizer")]
    anchor: list[int] = []
    if any(changed):
        anchor = backend.encode("a", add_special_tokens=False).ids
        backend = tokenizers.Tokenizer.from_str(json.dumps(state))
    backend.no_truncation()
    backend.no_padding()
    return backend, anchor


def _may_prefix(backend: tokenizers.Tokenizer) -> bool:
    """Whether a string gains something in front; cheap, since a vocabulary may be large."""
    parts = (backend.normalizer, backend.pre_tokenizer)
    return any(word in str(part) for part in parts for word in ("Prepend", "Metaspace", "prefix"))


def _drop_prefix(state: dict[str, Any], part: str) -> bool:
    """Take what puts a space before a string out of ``state[part]``; True if there was any."""
    value = state.get(part)
    if not isinstance(value, dict):
        return False

    # The parts that add a space, and a sequence of parts.
    match value.get("type"):
        case "Prepend":
            state[part] = None
            return True
        case "Metaspace" if value.get("prepend_scheme") != "never":
            value["prepend_scheme"] = "never"
            return True
        case "ByteLevel" if value.get("add_prefix_space"):
            value["add_prefix_space"] = False
            return True
        case "Sequence":
            inner = value["normalizers" if part == "normalizer" else "pretokenizers"]
            slots = [{part: one} for one in inner]
            changed = [_drop_prefix(slot, part) for slot in slots]
            inner[:] = [slot[part] for slot in slots if slot[part] is not None]
            return any(changed)
    return False


class PieceStream:
    """Texts of tokens as they arrive; see :meth:`Tokenizer.pieces`.

    A token's text may depend on its left neighbour, so each step decodes the tokens since the
    last complete piece twice, with and without the new one. Most tokens of a byte-level tokenizer
    are whole characters, whose text is looked up.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # tokens of the last complete piece
        self._pending: list[int] = []  # tokens after it
        self._whole = True  # the last piece ended with a whole character

    def push(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> list[str]:
        """Pieces of ``ids``, one each; unfinished characters wait for later tokens."""
        return [self._push_one(int(token)) for token in ids]

    def flush(self) -> str:
        """What still waits, with U+FFFD for unfinished characters."""
        text = self._new_text()
        self._context, self._pending = self._context + self._pending, []
        return text

    def _push_one(self, token: int) -> str:
        if self._whole and not self._pending:
            text_by_id = self._tokenizer.context_free_text(token)
            if text_by_id is not None:
                self._context = [token]
                return text_by_id
        self._pending.append(token)
        text = self._new_text()
        # Four bytes are the longest character; a longer wait is a real U+FFFD in the text.
        if text.endswith(_UNFINISHED) and len(self._pending) < 5:
            return ""
        self._context, self._pending = self._pending, []
        self._whole = not text.endswith(_UNFINISHED)
        return text

    def _new_text(self) -> str:
        if not self._pending:
            return ""
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(before) :]
