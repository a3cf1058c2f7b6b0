"""Gisters without a model: for the simulator, for tests and for benchmarks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from megacontext.core.tree.spec import F32, U32

__all__ = ["HashGister", "NullGister"]


@dataclass(frozen=True)
class NullGister:
    """Zero vectors: the tree's arithmetic without the cost of gists."""

    dim: int = 1
    key_dim: int = 1
    checkpoint_id: str = "null"
    left_context: int = field(default=0, init=False)

    def encode_blocks(self, tokens: U32, left: U32) -> tuple[F32, F32]:
        return self._zeros(len(tokens))

    def encode_gists(self, level: int, children: F32) -> tuple[F32, F32]:
        return self._zeros(len(children))

    def _zeros(self, n: int) -> tuple[F32, F32]:
        return np.zeros((n, self.dim), np.float32), np.zeros((n, self.key_dim), np.float32)


@dataclass(frozen=True)
class HashGister:
    """Each vector is a hash of level, checkpoint id and the children's bytes.

    A gist that stands for anything but exactly its children is therefore visible. All values are
    multiples of 1/128 in [-1, 1), which fp16, bf16 and fp32 hold exactly.
    """

    dim: int = 8
    key_dim: int = 4
    checkpoint_id: str = "hash"
    left_context: int = 0

    def encode_blocks(self, tokens: U32, left: U32) -> tuple[F32, F32]:
        children = np.concatenate([left, tokens], axis=1, dtype=np.uint32)
        return self._hash(1, children)

    def encode_gists(self, level: int, children: F32) -> tuple[F32, F32]:
        return self._hash(level, np.ascontiguousarray(children, np.float32))

    def _hash(self, level: int, children: U32 | F32) -> tuple[F32, F32]:
        salt, length = f"{level}:{self.checkpoint_id}:".encode(), self.dim + self.key_dim
        digest = b"".join(
            hashlib.shake_128(salt + child.tobytes()).digest(length) for child in children
        )
        signed = np.frombuffer(digest, np.int8).reshape(-1, length)
        values = np.multiply(signed, 1 / 128, dtype=np.float32)
        return values[:, : self.dim], values[:, self.dim :]
