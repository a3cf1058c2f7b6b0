"""The untrained control: a gist is the mean of its children, its key a hashed bag of tokens."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from megacontext.core.gistnet.lexical import LexicalKeys, normalized
from megacontext.core.rng import generator
from megacontext.traces.errors import ModelError

__all__ = ["MeanGister", "embedding_hash", "rms_matched"]

F32 = npt.NDArray[np.float32]
U32 = npt.NDArray[np.uint32]


def rms_matched(x: F32, rms: float) -> F32:
    """Rows of ``x`` [..., dim] scaled to root mean square ``rms``; rows of zeros stay zeros."""
    size = np.sqrt(np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32))
    scaled: F32 = np.divide(x * np.float32(rms), size, out=np.zeros_like(x), where=size > 0)
    return scaled


def embedding_hash(embeddings: F32) -> str:
    """Eight hex digits that name an embedding table: another base model gives other digits."""
    digest = hashlib.sha256(str(embeddings.shape).encode())
    digest.update(np.ascontiguousarray(embeddings, np.float32).tobytes())
    return digest.hexdigest()[:8]


class MeanGister:
    """Gist = mean of the child embeddings, scaled to the RMS of the token embeddings.

    Follows the ``Gister`` protocol of ``core.tree``. Level-1 keys are
    :class:`~megacontext.core.gistnet.lexical.LexicalKeys`; a search for a node of level 2 or
    higher goes through its level-1 descendants' keys. The key of a higher node itself is a
    normalised random projection of its gist, which only tells nodes apart.

    Args:
        embeddings: F32[vocab, dim], the base model's input embeddings.
        key_dim: length of an index key.
        seed: of the random projections; recorded in ``checkpoint_id``.

    Raises:
        ModelError: the embeddings are not a finite matrix or ``key_dim`` is not positive.
    """

    left_context = 0

    def __init__(self, embeddings: npt.NDArray[np.floating], key_dim: int = 256, seed: int = 0):
        table = np.asarray(embeddings, np.float32)
        if table.ndim != 2 or not table.size or not np.isfinite(table).all():
            raise ModelError(
                f"embeddings of shape {table.shape} must be a finite matrix [vocab, dim];"
                " pass the base model's input embeddings"
            )
        if key_dim < 1:
            raise ModelError(f"key_dim {key_dim} must be positive; 128 to 256 is usual")
        self.dim = int(table.shape[1])
        self.key_dim = key_dim
        self.checkpoint_id = f"mean-k{key_dim}-s{seed}-{embedding_hash(table)}"
        self.rms = float(np.sqrt(np.mean(np.square(table, dtype=np.float64))))
        self._embeddings = table
        self._lexical = LexicalKeys(len(table), key_dim, seed)
        projection = generator(seed, "mean-gister-keys").standard_normal(
            (self.dim, key_dim), np.float32
        )
        self._projection: F32 = projection / np.float32(np.sqrt(self.dim))

    def encode_blocks(self, tokens: U32, left: U32) -> tuple[F32, F32]:
        """Gists and keys of complete blocks.

        Args:
            tokens: U32[n, K] token ids.
            left: U32[n, 0]; the mean reads no left context, so any width is ignored.

        Returns:
            F32[n, dim] gists and F32[n, key_dim] keys.
        """
        gists = np.zeros((len(tokens), self.dim), np.float32)
        for column in range(tokens.shape[1]):  # column-wise: no [n, K, dim] copy
            gists += self._embeddings[tokens[:, column]]
        return rms_matched(gists, self.rms), self._lexical.encode(tokens)

    def encode_gists(self, level: int, children: F32) -> tuple[F32, F32]:
        """Gists and keys of complete groups: ``children`` F32[n, K, dim] of ``level - 1``."""
        if level < 2:
            raise ValueError(f"gists of gists start at level 2, got level {level}")
        gists = rms_matched(np.mean(children, axis=1, dtype=np.float32), self.rms)
        return gists, normalized(gists @ self._projection)

    def encode_query(self, tokens: U32) -> F32:
        """Key-space vectors F32[m, key_dim] of a question or of the newest tokens U32[t].

        Dot products with level-1 keys grow with shared rare wording. Here m is 1: a bag of the
        whole question; an empty question gives a zero vector.
        """
        return self._lexical.encode(np.asarray(tokens)[None, :])
