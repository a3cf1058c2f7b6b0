"""What the lens reads of a tree's nodes, on its device, extended as the tree grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Mirror", "TreeLike"]

F32 = npt.NDArray[np.float32]
_KEYS = "keys"
_CHUNK = 16_384  # nodes copied at a time: bounds host memory while a large tree is mirrored
_PIECE = 64  # gists read at a time


class TreeLike(Protocol):
    """What the lens reads of a tree."""

    def n_nodes(self, level: int) -> int: ...
    def gists(self, level: int, start: int, stop: int) -> F32: ...
    def keys(self, level: int, start: int, stop: int) -> F32: ...
    def tokens(self, start: int, stop: int) -> npt.NDArray[Any]: ...


class Mirror:
    """Append-only arrays of one tree on ``device``; a tree that shrank is read anew.

    Args:
        read: from gists [64, D] on ``device``, float32, to what is kept of them, [64, E]; a row of
            it follows from the same row alone.
    """

    def __init__(self, device: torch.device, read: Callable[[Tensor], Tensor]) -> None:
        self._device = device
        self._read = read
        self._tree: TreeLike | None = None
        self._rows: dict[str, Tensor] = {}
        self._count: dict[str, int] = {}

    def keys(self, tree: TreeLike) -> Tensor:
        """Index keys of all level-1 nodes, in a buffer [>= n1, V] of a power of two of rows.

        In float32: half precision blurs who is best.
        """
        count = tree.n_nodes(1)
        return self._extended(tree, _KEYS, count, lambda a, b: self._copied(tree.keys(1, a, b)))

    def gists(self, tree: TreeLike, level: int) -> Tensor:
        """What was read of all nodes of ``level``, in a buffer [>= n, E] like that of the keys."""
        count = tree.n_nodes(level)
        return self._extended(
            tree,
            f"gists-{level}",
            count,
            lambda a, b: self._in_parts(self._copied(tree.gists(level, a, b)), a),
        )

    def _extended(
        self, tree: TreeLike, name: str, count: int, made: Callable[[int, int], Tensor]
    ) -> Tensor:
        """``made`` gives the rows [start, stop) that are missing."""
        if tree is not self._tree:
            self._tree, self._rows, self._count = tree, {}, {}
        have = self._count.get(name, 0)
        if have > count:
            have = 0
        while have < count:
            stop = min(count, have + _CHUNK)
            part = made(have, stop)
            self._reserve(name, stop, part)
            self._rows[name][have:stop] = part
            have = stop
        self._count[name] = have
        return self._rows[name]

    def _copied(self, rows: F32) -> Tensor:
        # The tree hands out views of buffers that it may replace or map read-only.
        return torch.from_numpy(np.array(rows, np.float32)).to(self._device)

    def _in_parts(self, gists: Tensor, first: int) -> Tensor:
        """What is kept of gists [n, D], whose nodes are ``first`` and those behind it.

        How a product is summed depends on its shape and on a row's place in it. Both are the same
        here whenever a node is read, so a session that is resumed scores as one that never stopped.
        """
        lead, count = first % _PIECE, len(gists)
        whole = functional.pad(gists, (0, 0, lead, -(lead + count) % _PIECE))
        read = [self._read(piece) for piece in torch.split(whole, _PIECE)]
        return torch.cat(read)[lead : lead + count]

    def _reserve(self, name: str, rows: int, like: Tensor) -> None:
        old = self._rows.get(name)
        if old is not None and len(old) >= rows:
            return
        size = max(1024, 1 << (rows - 1).bit_length())
        extended = torch.zeros((size, like.shape[1]), device=self._device, dtype=like.dtype)
        if old is not None:
            extended[: len(old)] = old
        self._rows[name] = extended
