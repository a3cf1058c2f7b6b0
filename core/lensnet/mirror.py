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
_PIECE = 64  # gists read at a time; divides _CHUNK


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
        return self._grown(tree, _KEYS, tree.n_nodes(1), lambda a, b: tree.keys(1, a, b), 1)

    def gists(self, tree: TreeLike, level: int) -> Tensor:
        """What was read of all nodes of ``level``, in a buffer [>= n, E] like that of the keys."""
        count = tree.n_nodes(level)
        name = f"gists-{level}"
        return self._grown(tree, name, count, lambda a, b: tree.gists(level, a, b), _PIECE)

    def _grown(
        self,
        tree: TreeLike,
        name: str,
        count: int,
        rows: Callable[[int, int], F32],
        piece: int,
    ) -> Tensor:
        if tree is not self._tree:
            self._tree, self._rows, self._count = tree, {}, {}
        have = self._count.get(name, 0)
        if have > count:
            have = 0
        while have < count:
            first = have // piece * piece
            stop = min(count, first + _CHUNK)
            # A copy: the tree hands out views of buffers that it may replace or map read-only.
            part = torch.from_numpy(np.array(rows(first, stop), np.float32)).to(self._device)
            if piece > 1:
                part = self._in_pieces(part)
            self._reserve(name, stop, part)
            self._rows[name][have:stop] = part[have - first : stop - first]
            have = stop
        self._count[name] = have
        return self._rows[name]

    def _in_pieces(self, gists: Tensor) -> Tensor:
        """Gists [n, D], the first of them at the start of a piece, as what is kept of them.

        How a product is summed depends on its shape and on a row's place in it. Both are the same
        here whenever a node is read, so a session that is resumed scores as one that never stopped.
        """
        whole = functional.pad(gists, (0, 0, 0, -len(gists) % _PIECE))
        return torch.cat([self._read(piece) for piece in torch.split(whole, _PIECE)])

    def _reserve(self, name: str, rows: int, like: Tensor) -> None:
        old = self._rows.get(name)
        if old is not None and len(old) >= rows:
            return
        size = max(1024, 1 << (rows - 1).bit_length())
        grown = torch.zeros((size, like.shape[1]), device=self._device, dtype=like.dtype)
        if old is not None:
            grown[: len(old)] = old
        self._rows[name] = grown
