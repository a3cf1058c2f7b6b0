"""The untrained stand-in: a gist is the embedding of its block's rarest token.

A frozen model has only ever seen token embeddings. With the asked fact raw in the window, the
bundled base answered 10 of 10 questions beside 50, 150 or 270 such gists, and 0 of 10 beside as
many mean-pooled ones (``docs/lab``): a mean lies where no token lies, and derails it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.core.gistnet.mean import MeanGister

__all__ = ["TokenGister"]

F32 = npt.NDArray[np.float32]
U32 = npt.NDArray[np.uint32]


class TokenGister(MeanGister):
    """Gist = one child's embedding, unchanged; keys and queries as :class:`MeanGister`.

    Level 1 takes the token with the largest prior weight (the rarest by rank, see
    :class:`~megacontext.core.gistnet.lexical.LexicalKeys`; the last one among equals). Level 2
    and above take the child that lies farthest from the mean of its siblings.
    """

    def __init__(self, embeddings: npt.NDArray[np.floating], key_dim: int = 256, seed: int = 0):
        super().__init__(embeddings, key_dim, seed)
        self.checkpoint_id = self.checkpoint_id.replace("mean", "token", 1)

    def encode_blocks(self, tokens: U32, left: U32) -> tuple[F32, F32]:
        """Gists F32[n, dim] and keys F32[n, key_dim] of blocks U32[n, K]."""
        weights = self._lexical.weights[tokens]
        last_best = tokens.shape[1] - 1 - np.argmax(weights[:, ::-1], axis=1)
        picked = np.take_along_axis(tokens, last_best[:, None], axis=1)[:, 0]
        return self._embeddings[picked], self._lexical.encode(tokens)

    def encode_gists(self, level: int, children: F32) -> tuple[F32, F32]:
        """Gists and keys of complete groups: ``children`` F32[n, K, dim] of ``level - 1``."""
        _, keys = super().encode_gists(level, children)
        offset = children - children.mean(axis=1, keepdims=True, dtype=np.float32)
        max_distance = np.argmax(np.einsum("nkd,nkd->nk", offset, offset), axis=1)
        return children[np.arange(len(children)), max_distance].astype(np.float32), keys
