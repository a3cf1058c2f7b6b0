"""A gister that makes hashes, and fails when it is told to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.core.tree import HashGister
from megacontext.traces.errors import ModelError

__all__ = ["DIM", "KEY_DIM", "FailingGister"]

DIM, KEY_DIM = 4, 2


@dataclass
class FailingGister:
    """A hash gister that can be told to fail at its n-th call."""

    checkpoint_id: str = "hash-0"
    fail_in: int = 0
    nan: bool = False
    dim: int = DIM
    key_dim: int = KEY_DIM
    left_context: int = 0

    def __post_init__(self) -> None:
        self.inner = HashGister(self.dim, self.key_dim, self.checkpoint_id, self.left_context)

    def encode_blocks(self, tokens: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._maybe(self.inner.encode_blocks(tokens, left))

    def encode_gists(self, level: int, children: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._maybe(self.inner.encode_gists(level, children))

    def _maybe(self, encoded: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        if self.fail_in == 0:
            return encoded
        self.fail_in -= 1
        if self.fail_in:
            return encoded
        if not self.nan:
            raise ModelError("the simulated gister failed; try again.")
        vectors = encoded[0].copy()
        vectors[-1, 0] = np.nan
        return vectors, encoded[1]
