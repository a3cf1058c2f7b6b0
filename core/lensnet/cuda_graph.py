"""LensNet's scoring pass as a CUDA graph.

A pass launches some 300 small kernels, which on a GPU takes several times as long as their work.
So the pass runs on fixed buffers whose sizes are powers of two, is captured once per size and
then replayed: one copy in, one replay, one copy out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["CapturedPass"]

F32 = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer[Any]]


class CapturedPass:
    """A captured pass over fixed buffers of one size.

    Args:
        run: takes (entries, counts, question, hidden, surprisal) on the device. All other tensors
            that it reads must keep their addresses, so it is referenced here.
        entries, question, hidden: sizes N, q and (h, D).

    Raises:
        RuntimeError: the device cannot capture the pass.
    """

    def __init__(
        self,
        run: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor],
        entries: int,
        question: int,
        hidden: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._run = run
        # All integers are copied at once: entries, then counts, then the question.
        self._packed = torch.zeros(3 * entries + 4 + question, dtype=torch.int64, device=device)
        self._entries = self._packed[: 3 * entries].view(3, entries)
        self._entries[0] = -1
        self._entries[0, 0] = 1
        self._counts = self._packed[3 * entries : 3 * entries + 4]
        self._counts.fill_(1)
        self._question = self._packed[3 * entries + 4 :]
        self._surprisal = torch.zeros(entries, device=device)
        self.hidden = torch.zeros(hidden, dtype=dtype, device=device)
        staging = torch.zeros(len(self._packed), dtype=torch.int64, pin_memory=True)
        surprisal = torch.zeros(entries, pin_memory=True)
        self._staging, self._staged_surprisal = staging, surprisal
        self._host, self._host_surprisal = staging.numpy(), surprisal.numpy()
        self._result = torch.zeros(entries, pin_memory=True)
        arguments = (self._entries, self._counts, self._question, self.hidden, self._surprisal)
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # creates library handles and workspaces
            for _ in range(3):
                run(*arguments)
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._scores = run(*arguments).float()

    def launch(
        self,
        entries: Sequence[Integers],
        counts: Sequence[int],
        question: Integers,
        surprisal: F32 | None,
    ) -> None:
        """Start a pass over n <= N entries, without waiting for it.

        Args:
            entries: level, index and start of each.
            counts, question: as :func:`lens_pass` has them.
            surprisal: [n]; None: unknown.
        """
        # The last pass ended with a synchronization: the staging buffers are free.
        width, count = self._entries.shape[1], len(entries[0])
        rows = self._host[: 3 * width].reshape(3, width)
        for row, values, padding in zip(rows, entries, (-1, 0, 0), strict=True):
            row[:count] = values
            row[count:] = padding
        self._host[3 * width : 3 * width + 4] = counts
        self._host[3 * width + 4 :] = question
        self._host_surprisal[:count] = 0 if surprisal is None else surprisal
        self._packed.copy_(self._staging, non_blocking=True)
        self._surprisal.copy_(self._staged_surprisal, non_blocking=True)
        self._graph.replay()
        self._result.copy_(self._scores, non_blocking=True)

    def wait(self, count: int) -> F32:
        """Scores float32[n] of the pass under way, ``count`` = n."""
        torch.cuda.current_stream(self._packed.device).synchronize()
        scores: F32 = self._result[:count].numpy().copy()
        return scores
