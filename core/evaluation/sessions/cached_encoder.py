"""A cache of gists: several contenders build the same tree over one history."""

from __future__ import annotations

import numpy as np

from megacontext.core.tree import Gister
from megacontext.core.tree.spec import F32, U32

__all__ = ["CachedEncoder"]


class CachedEncoder:
    """A gister with a cache, keyed by the bytes of its inputs.

    Args:
        inner: the gister that encodes what is not in the cache.
    """

    def __init__(self, inner: Gister) -> None:
        self._inner = inner
        self.checkpoint_id = inner.checkpoint_id
        self.dim = inner.dim
        self.key_dim = inner.key_dim
        self.left_context = inner.left_context
        self._known: dict[bytes, tuple[F32, F32]] = {}

    def encode_blocks(self, tokens: U32, left: U32) -> tuple[F32, F32]:
        """See the ``Gister`` protocol of ``core.tree``."""
        inputs = np.concatenate([left, tokens], axis=1, dtype=np.uint32)
        names = [row.tobytes() for row in inputs]
        new = self._new(names)
        if new:
            self._keep([names[i] for i in new], self._inner.encode_blocks(tokens[new], left[new]))
        return self._cached(names)

    def encode_gists(self, level: int, children: F32) -> tuple[F32, F32]:
        """See the ``Gister`` protocol of ``core.tree``."""
        salt = bytes([level])
        names = [salt + np.ascontiguousarray(row).tobytes() for row in children]
        new = self._new(names)
        if new:
            self._keep([names[i] for i in new], self._inner.encode_gists(level, children[new]))
        return self._cached(names)

    def _new(self, names: list[bytes]) -> list[int]:
        first = {name: i for i, name in reversed(list(enumerate(names)))}
        return sorted(i for name, i in first.items() if name not in self._known)

    def _keep(self, names: list[bytes], encoded: tuple[F32, F32]) -> None:
        self._known.update(zip(names, zip(*encoded, strict=True), strict=True))

    def _cached(self, names: list[bytes]) -> tuple[F32, F32]:
        gists = np.empty((len(names), self.dim), np.float32)
        keys = np.empty((len(names), self.key_dim), np.float32)
        for i, name in enumerate(names):
            gists[i], keys[i] = self._known[name]
        return gists, keys
