"""What a tree is made of, and what makes its gists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from megacontext.traces.errors import ConfigError

__all__ = [
    "F32",
    "MAX_NAME_BYTES",
    "NO_TOKEN",
    "U32",
    "Gister",
    "Progress",
    "TreeSpec",
]

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]
Progress = Callable[[int, int], None]
"""Called with (nodes done, nodes in all)."""

NO_TOKEN = 0xFFFFFFFF
"""Stands in the left context for positions before the start of the history."""

MAX_NAME_BYTES = 1024
_DTYPES = ("fp16", "bf16", "fp32")
_MAX_LEVELS = 24


class Gister(Protocol):
    """Makes gists: GistNet, mean pooling, null gists, hash gists.

    ``left_context`` is the number of raw tokens before a block that ``encode_blocks`` wants.
    """

    @property
    def checkpoint_id(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def key_dim(self) -> int: ...

    @property
    def left_context(self) -> int: ...

    def encode_blocks(self, tokens: U32, left: U32) -> tuple[F32, F32]:
        """Level-1 gists of ``tokens`` [n, K] with ``left`` [n, C]: vectors [n, dim], keys
        [n, key_dim]."""
        ...

    def encode_gists(self, level: int, children: F32) -> tuple[F32, F32]:
        """Gists of ``level`` >= 2 from ``children`` [n, K, dim] of the level below."""
        ...


@dataclass(frozen=True)
class TreeSpec:
    """The unchanging facts of a tree.

    Attributes:
        block_size: K, tokens in a block and children of a node; a power of two.
        max_levels: the highest level of gists; level L covers K**L tokens.
        dim: length of a gist vector, the base model's embedding width.
        key_dim: length of an index key.
        dtype: how gists are stored: "fp16", "bf16" or "fp32". Keys are always fp16.
        model: name of the base model the tokens and gists belong to.
        gist_checkpoint: id of the gister that made the gists.
        vocab_size: token ids are below it.
        tokenizer: fingerprint of what the ids mean; empty where nobody said.

    Raises:
        ConfigError: a value is outside its legal range.
    """

    block_size: int
    max_levels: int
    dim: int
    key_dim: int
    dtype: str
    model: str
    gist_checkpoint: str
    vocab_size: int
    tokenizer: str = ""

    def __post_init__(self) -> None:
        size = self.block_size
        if not 2 <= size <= 4096 or size & (size - 1):
            raise ConfigError(f"block_size is {size}; use a power of two from 2 to 4096.")
        if not 1 <= self.max_levels <= _MAX_LEVELS or size**self.max_levels >= 2**62:
            raise ConfigError(
                f"max_levels is {self.max_levels}; use 1 to {_MAX_LEVELS} with "
                f"block_size**max_levels below 2**62."
            )

        for name, value, top in (
            ("dim", self.dim, 2**20),
            ("key_dim", self.key_dim, 2**16),
            ("vocab_size", self.vocab_size, NO_TOKEN),
        ):
            if not 1 <= value <= top:
                raise ConfigError(f"{name} is {value}; use 1 to {top}.")
        if self.dtype not in _DTYPES:
            raise ConfigError(f"dtype is {self.dtype!r}; use one of {', '.join(_DTYPES)}.")

        # Names must fit their fixed fields in the header of each file.
        for name, text in (("model", self.model), ("gist_checkpoint", self.gist_checkpoint)):
            if not 1 <= len(text.encode()) <= MAX_NAME_BYTES:
                raise ConfigError(
                    f"{name} has {len(text.encode())} bytes; use 1 to {MAX_NAME_BYTES}."
                )
        if len(self.tokenizer) > MAX_NAME_BYTES:
            raise ConfigError(
                f"tokenizer has {len(self.tokenizer)} characters; use at most {MAX_NAME_BYTES}."
            )

    def as_dict(self) -> dict[str, int | str]:
        return asdict(self)
