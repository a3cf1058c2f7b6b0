"""What a tree is made of, and what makes its gists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from megacontext.traces.errors import ConfigError, ModelError, StorageError

__all__ = [
    "F32",
    "MAX_NAME_BYTES",
    "NO_TOKEN",
    "U32",
    "Gister",
    "Progress",
    "TreeSpec",
    "check_gister",
    "check_spec",
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

    checkpoint_id: str
    dim: int
    key_dim: int
    left_context: int

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
        for name, text in (("model", self.model), ("gist_checkpoint", self.gist_checkpoint)):
            if not 1 <= len(text.encode()) <= MAX_NAME_BYTES:
                raise ConfigError(
                    f"{name} has {len(text.encode())} bytes; use 1 to {MAX_NAME_BYTES}."
                )

    def as_dict(self) -> dict[str, int | str]:
        return asdict(self)


def check_gister(spec: TreeSpec, gister: Gister, where: str) -> None:
    """Refuse a gister whose gists cannot stand beside those of the tree ``where``.

    Raises:
        StorageError: it has another checkpoint id; gists are never mixed silently.
        ModelError: its vectors have another length.
    """
    if gister.dim != spec.dim or gister.key_dim != spec.key_dim:
        raise ModelError(
            f"gister {gister.checkpoint_id!r} makes gists of {gister.dim} and keys of "
            f"{gister.key_dim} values but {where} holds {spec.dim} and {spec.key_dim}; load the "
            f"gister {spec.gist_checkpoint!r}."
        )
    if gister.checkpoint_id != spec.gist_checkpoint:
        raise StorageError(
            f"the gists of {where} come from checkpoint {spec.gist_checkpoint!r}, not from "
            f"{gister.checkpoint_id!r}; load that checkpoint or rebuild the gists with regist."
        )


def check_spec(have: TreeSpec, want: TreeSpec, where: str) -> None:
    """Refuse a tree that is not the expected one, naming the first field that differs.

    Raises:
        StorageError: a field differs.
    """
    for field in fields(TreeSpec):
        left, right = getattr(have, field.name), getattr(want, field.name)
        if left != right:
            fix = (
                "rebuild the gists with regist or load that checkpoint"
                if field.name == "gist_checkpoint"
                else "open it with the same setting or choose another tree"
            )
            raise StorageError(
                f"{field.name} of {where} is {left!r} but {right!r} is expected; {fix}."
            )
