"""Gist and key of one block as a CUDA graph, beside what the base model computes.

A closed block's gist takes some hundred small kernels, whose launches cost the host many times what
the GPU needs for them. One graph is one launch; on a stream of its own it waits for no decode step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["BlockGraph"]


class BlockGraph:
    """Replays ``encode`` for one block.

    Args:
        encode: ids I64[1, T] on the device to a gist [1, dim] and a key [1, key_dim].
        length: T.
        device: a GPU.
    """

    def __init__(
        self, encode: Callable[[Tensor], tuple[Tensor, Tensor]], length: int, device: torch.device
    ) -> None:
        self._ids = torch.zeros(1, length, dtype=torch.int64, device=device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            encode(self._ids)  # what is made once must not be made while capturing
        self._stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            gist, key = encode(self._ids)
            self._dim = gist.shape[1]
            self._packed = torch.cat((gist.float(), key.float()), dim=1)

    def encode(
        self, ids: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Gist F32[1, dim] and key F32[1, key_dim] of one block I64[1, T]."""
        with torch.cuda.stream(self._stream):
            self._ids.copy_(torch.from_numpy(ids), non_blocking=True)
            self._graph.replay()
            packed: npt.NDArray[np.float32] = self._packed.cpu().numpy()
        return packed[:, : self._dim], packed[:, self._dim :]
