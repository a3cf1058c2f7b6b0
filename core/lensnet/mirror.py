"""Copies of a tree's gists and keys on the lens's device, extended as the tree grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Mirror", "TreeLike"]

F32 = npt.NDArray[np.float32]
_KEYS = "keys"
_CHUNK = 16_384  # nodes copied at a time: bounds host memory while a large tree is mirrored


class TreeLike(Protocol):
    """What the lens reads of a tree."""

    def n_nodes(self, level: int) -> int: ...
    def gists(self, level: int, start: int, stop: int) -> F32: ...
    def keys(self, level: int, start: int, stop: int) -> F32: ...
    def tokens(self, start: int, stop: int) -> npt.NDArray[Any]: ...


class Mirror:
    """Append-only arrays of one tree on ``device``; a tree that shrank is read anew.

    Gists are kept in ``dtype``; keys in float32, because half precision blurs who is best.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        self._tree: TreeLike | None = None
        self._rows: dict[str, Tensor] = {}
        self._count: dict[str, int] = {}

    def keys(self, tree: TreeLike) -> Tensor:
        """Index keys of all level-1 nodes, in a buffer [>= n1, V] of a power of two of rows."""
        return self._grown(tree, _KEYS, tree.n_nodes(1), lambda a, b: tree.keys(1, a, b))

    def gists(self, tree: TreeLike, level: int) -> Tensor:
        """Gists of all nodes of ``level``, in a buffer [>= n, D] of a power of two of rows."""
        count = tree.n_nodes(level)
        return self._grown(tree, f"gists-{level}", count, lambda a, b: tree.gists(level, a, b))

    def _grown(
        self, tree: TreeLike, name: str, count: int, read: Callable[[int, int], F32]
    ) -> Tensor:
        if tree is not self._tree:
            self._tree, self._rows, self._count = tree, {}, {}
        have = self._count.get(name, 0)
        if have > count:
            have = 0
        while have < count:
            stop = min(count, have + _CHUNK)
            # A copy: the tree hands out views of buffers that it may replace or map read-only.
            part = torch.from_numpy(np.array(read(have, stop), np.float32))
            self._reserve(name, stop, part.shape[1])
            self._rows[name][have:stop] = part.to(self._device, self._rows[name].dtype)
            have = stop
        self._count[name] = have
        return self._rows[name]

    def _reserve(self, name: str, rows: int, width: int) -> None:
        old = self._rows.get(name)
        if old is not None and len(old) >= rows:
            return
        size = max(1024, 1 << (rows - 1).bit_length())
        dtype = torch.float32 if name == _KEYS else self._dtype
        grown = torch.zeros((size, width), device=self._device, dtype=dtype)
        if old is not None:
            grown[: len(old)] = old
        self._rows[name] = grown
