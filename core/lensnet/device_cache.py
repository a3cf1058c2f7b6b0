"""A tree's keys and projected gists on the lens's device, extended as the tree grows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.lenses.base import TreeView

__all__ = ["DeviceCache"]

F32 = npt.NDArray[np.float32]
_KEYS = "keys"
_COPY_ROWS = 16_384  # nodes copied at a time: bounds host memory while a large tree is read
_READ_ROWS = 64  # gists projected at a time


class DeviceCache:
    """Append-only arrays of one tree on ``device``; a tree that shrank is read again.

    Args:
        read: maps gists [64, D] on ``device``, float32, to the cached rows [64, E], each from the
            same row alone.
    """

    def __init__(self, device: torch.device, read: Callable[[Tensor], Tensor]) -> None:
        self._device = device
        self._read = read
        self._tree: TreeView | None = None
        self._rows: dict[str, Tensor] = {}
        self._count: dict[str, int] = {}

    def keys(self, tree: TreeView) -> Tensor:
        """Index keys of all level-1 nodes, float32, in a buffer [>= n1, V].

        The number of rows is a power of two. Half precision would change the order of the best
        matches.
        """
        count = tree.n_nodes(1)
        return self._extended(tree, _KEYS, count, lambda a, b: self._copied(tree.keys(1, a, b)))

    def gists(self, tree: TreeView, level: int) -> Tensor:
        """Projected gists of all nodes of ``level``, in a buffer [>= n, E] like that of keys."""
        count = tree.n_nodes(level)
        return self._extended(
            tree,
            f"gists-{level}",
            count,
            lambda a, b: self._read_in_chunks(self._copied(tree.gists(level, a, b)), a),
        )

    def _extended(
        self, tree: TreeView, name: str, count: int, read_rows: Callable[[int, int], Tensor]
    ) -> Tensor:
        """The buffer ``name`` with ``count`` rows; ``read_rows(start, stop)`` adds missing ones."""
        if tree is not self._tree:
            self._tree, self._rows, self._count = tree, {}, {}
        cached = self._count.get(name, 0)
        if cached > count:
            cached = 0
        while cached < count:
            stop = min(count, cached + _COPY_ROWS)
            part = read_rows(cached, stop)
            self._reserve(name, stop, part)
            self._rows[name][cached:stop] = part
            cached = stop
        self._count[name] = cached
        return self._rows[name]

    def _copied(self, rows: F32) -> Tensor:
        # The tree returns views of buffers that it may replace or map read-only.
        return torch.from_numpy(np.array(rows, np.float32)).to(self._device)

    def _read_in_chunks(self, gists: Tensor, first: int) -> Tensor:
        """Projections [n, E] of gists [n, D] of the nodes from ``first`` on.

        A matrix product's rounding depends on its shape and on a row's position in it. Here both
        depend on the node's index alone, so a resumed session has the same scores bit for bit.
        """
        lead, count = first % _READ_ROWS, len(gists)
        whole = functional.pad(gists, (0, 0, lead, -(lead + count) % _READ_ROWS))
        read = [self._read(piece) for piece in torch.split(whole, _READ_ROWS)]
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
