"""The words that tokens spell: a block leads to another through a word that both say."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from megacontext.core.model.base import BaseModel
from megacontext.core.tree.spec import U32

__all__ = ["HistoryWords", "words_of"]

_MARGIN = 8
"""Tokens to either side of a span that may belong to a word that begins or ends in it."""
_WORD = re.compile(r"\w+")

Words = dict[str, list[int]]
"""By word, in lower case, the numbers of the tokens that spell it."""


def words_of(pieces: Sequence[str]) -> Words:
    """The words of the joined ``pieces``, each with the numbers of its pieces."""
    ends = np.cumsum([len(piece) for piece in pieces])
    words: Words = {}
    for match in _WORD.finditer("".join(pieces)):
        first, last = np.searchsorted(ends, (match.start(), match.end() - 1), side="right")
        words.setdefault(match.group().casefold(), []).extend(range(int(first), int(last) + 1))
    return words


class HistoryWords:
    """The words of spans of a history, each span read once.

    Args:
        base: its tokenizer says what the tokens spell; without one every token is a word.
        tokens: ids [start, stop) of the history.
        n_tokens: of the history.
    """

    def __init__(self, base: BaseModel, tokens: Callable[[int, int], U32], n_tokens: int) -> None:
        self._base = base
        self._tokens = tokens
        self._n_tokens = n_tokens
        self._known: dict[tuple[int, int], Words] = {}

    def of(self, ids: U32) -> Words:
        """The words of tokens that stand by themselves."""
        if not self._base.has_tokenizer:
            return words_of([f" {token}" for token in ids.tolist()])
        return words_of(self._base.tokenizer.pieces(ids))

    def between(self, start: int, stop: int) -> Words:
        """The words that have a token in [start, stop), with these tokens counted from ``start``.

        A word that the span cuts is there whole.
        """
        if (start, stop) not in self._known:
            first = max(0, start - _MARGIN)
            ids = np.asarray(self._tokens(first, min(self._n_tokens, stop + _MARGIN)))
            inside = {
                word: [first + i - start for i in numbers if start <= first + i < stop]
                for word, numbers in self.of(ids).items()
            }
            self._known[start, stop] = {
                word: numbers for word, numbers in inside.items() if numbers
            }
        return self._known[start, stop]
