"""BM25 over the words of blocks: plain block retrieval, the lexical control."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

__all__ = ["BlockSearch", "words_of"]

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Lower-cased words; identifiers stay whole."""
    return _WORD.findall(text.lower())


class BlockSearch:
    """Okapi BM25 (Robertson and Zaragoza, 2009) over the texts of blocks.

    Words and not tokens are compared, so that casing and a leading space make no difference:
    the control should be as strong as block retrieval usually is.
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        self._postings: dict[str, list[tuple[int, int]]] = {}
        lengths = np.zeros(len(texts))
        for block, text in enumerate(texts):
            words = words_of(text)
            lengths[block] = len(words)
            for word, count in Counter(words).items():
                self._postings.setdefault(word, []).append((block, count))
        mean = lengths.mean() if len(texts) else 1.0
        self._norm = k1 * (1 - b + b * lengths / max(mean, 1e-9))
        self._gain = k1 + 1

    def scores(self, query: str) -> np.ndarray:
        """F64[blocks]; 0 where no word of the query occurs."""
        scores = np.zeros(len(self._norm))
        for word, repeats in Counter(words_of(query)).items():
            postings = self._postings.get(word)
            if not postings:
                continue
            blocks, counts = np.array(postings).T
            rarity = np.log1p((len(scores) - len(blocks) + 0.5) / (len(blocks) + 0.5))
            scores[blocks] += repeats * rarity * counts * self._gain / (counts + self._norm[blocks])
        return scores
