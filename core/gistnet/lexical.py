"""Untrained index keys: a hashed bag of tokens.

Each token id owns a pseudo-random sign vector; a key is the L2-normalised, weighted sum over the
distinct tokens of a span, so that the dot product of two keys estimates the cosine of their
weighted bags with a noise of about 1/sqrt(key_dim) (random indexing; Kanerva, "Hyperdimensional
computing", 2009). Hashed pairs of neighbours were tried as well: their noise costs more than
they tell (top-1 75 % instead of 88 % at 256 dimensions).

Token statistics are not known (the same code serves any tokenizer), and keys must not depend on
what was read before, or rebuilding a tree would change them. The weight is therefore a prior: BPE
ids are handed out in merge order, most frequent first, and by Zipf's law the information of a
token is close to the logarithm of its rank.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from megacontext.core.rng import generator

__all__ = ["LexicalKeys", "normalized"]

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]

_BYTES = 272  # lowest ids are special tokens and bytes: their order says nothing
_RANK_SCALE = 64
_BATCH = 4096  # blocks per batch, so that bulk ingest needs a bounded amount of memory


def normalized(x: F32) -> F32:
    """Rows of ``x`` scaled to length 1; rows of zeros stay zeros."""
    length = np.sqrt(np.sum(x * x, axis=-1, keepdims=True, dtype=np.float32))
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


class LexicalKeys:
    """Maps spans of tokens to unit vectors whose dot product grows with shared rare wording.

    Args:
        vocab_size: number of token ids; ids outside are ignored (padding).
        key_dim: length of a key.
        seed: of the sign vectors; keys of different seeds cannot be compared.
    """

    def __init__(self, vocab_size: int, key_dim: int = 256, seed: int = 0) -> None:
        self.vocab_size = vocab_size
        self.key_dim = key_dim
        self.seed = seed

    @cached_property
    def _signs(self) -> npt.NDArray[np.int8]:
        draws = generator(self.seed, "lexical-keys").integers(
            0, 2, (self.vocab_size, self.key_dim), dtype=np.int8
        )
        return draws * np.int8(2) - np.int8(1)

    @cached_property
    def weights(self) -> F32:
        """Prior weight of each token id, in (0, 1]; see the module's docstring."""
        rank = np.arange(self.vocab_size, dtype=np.float32)
        idf = np.log1p(rank / _RANK_SCALE) / np.log1p(self.vocab_size / _RANK_SCALE)
        idf[:_BYTES] = np.maximum(idf[:_BYTES], 0.35)
        weights: F32 = idf.astype(np.float32)
        return weights

    def encode(self, tokens: Ints) -> F32:
        """Keys of many spans of one length.

        Args:
            tokens: [n, t] token ids.

        Returns:
            F32[n, key_dim], unit length (zeros for a span without a known token).
        """
        n = len(tokens)
        keys = np.zeros((n, self.key_dim), np.float32)
        for start in range(0, n, _BATCH):
            part = np.asarray(tokens[start : start + _BATCH], np.int64)
            keys[start : start + _BATCH] = self._encode(part)
        return normalized(keys)

    def _encode(self, tokens: npt.NDArray[np.int64]) -> F32:
        known = (tokens >= 0) & (tokens < self.vocab_size)
        ids = np.where(known, tokens, 0)
        weight = np.where(known, self.weights[ids], 0).astype(np.float32)
        weight *= _first_seen(np.where(known, ids, -1))
        key = np.zeros((len(tokens), self.key_dim), np.float32)
        for column in range(tokens.shape[1]):  # column-wise: no [n, t, key_dim] copy
            key += weight[:, column, None] * self._signs[ids[:, column]]
        return key


def _first_seen(ids: npt.NDArray[np.int64]) -> F32:
    """1 where an id occurs for the first time in its row, 0 for repeats and for -1."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, axis=1)
    fresh = np.ones(ids.shape, np.float32)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    fresh[ordered < 0] = 0
    result = np.empty_like(fresh)
    np.put_along_axis(result, order, fresh, axis=1)
    return result
