"""Rows of a Llama-type model as CUDA graphs: one for a decoded token, one per batch size.

Everything that changes from step to step lies in device tensors at fixed addresses (slots, window
orders, positions, the token), so a step is one small copy and one replay.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megacontext.core.model.base import BaseModel, Forward
from megacontext.core.model.fast_llama import llama_layers
from megacontext.core.model.llama_weights import llama_weights
from megacontext.core.model.slotted_cache import DEAD, SlottedCache
from megacontext.core.model.triton_ops import TritonOps, Tuning, triton_move

__all__ = ["BUCKETS", "GraphRunner"]

BUCKETS = (8, 32, 64, 80, 96, 128, 256, 512)
"""Rows that one graph computes; a batch is padded to the next of them."""


class _RowsGraph:
    """One captured batch size; ``hidden`` [bucket, d] holds the normed rows after a replay."""

    def __init__(self, runner: GraphRunner, bucket: int) -> None:
        cache = runner.cache
        self._inputs = torch.zeros(3, bucket, dtype=torch.int64, device=cache.device)
        self._inputs[0] = cache.scratch
        self._inputs[1] = DEAD
        self.hidden = torch.empty(bucket, runner.base.dim, device=cache.device, dtype=cache.dtype)
        self._padding = self._inputs.cpu().numpy()
        self._graph = runner.capture(partial(self._step, runner))

    def _step(self, runner: GraphRunner) -> None:
        slots, orders, positions = self._inputs
        runner.ops.begin(slots, orders, positions)
        x = llama_layers(runner.ops, runner.cache.inputs[slots], runner.weights.layers)
        self.hidden.copy_(runner.ops.norm(x, runner.weights.norm))

    def run(self, rows: NDArray[np.int64]) -> Tensor:
        """Compute rows I64[3, r] (slots, orders, positions); the first r of ``hidden``."""
        count = rows.shape[1]
        padded = self._padding.copy()
        padded[:, :count] = rows
        self._inputs.copy_(torch.from_numpy(padded), non_blocking=True)
        self._graph.replay()
        return self.hidden[:count]


class GraphRunner:
    """Decoding under CUDA graphs. Capturing all graphs takes a few seconds, at construction."""

    max_rows = BUCKETS[-1]

    def __init__(self, base: BaseModel, cache: SlottedCache, tuning: Tuning | None = None) -> None:
        self.base = base
        self.cache = cache
        self.weights = llama_weights(base, cache.rotary.layers)
        self.ops = TritonOps(self.weights, cache, tuning)
        cache.move_keys = partial(triton_move, cache)
        device = cache.device
        # token, slot, order, position of the newest row
        self._newest = torch.zeros(4, dtype=torch.int64, device=device)
        self._newest[1] = cache.scratch
        self._newest[2] = DEAD
        self._logits = torch.empty(1, base.vocab_size, device=device)
        self._hidden = torch.empty(1, base.dim, device=device, dtype=cache.dtype)
        self._pool = torch.cuda.graph_pool_handle()
        self._token_graph = self.capture(self._token_step)
        self._graphs = {bucket: _RowsGraph(self, bucket) for bucket in BUCKETS}

    def capture(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Run ``step`` once to compile its kernels, then record it."""

        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step()
        return graph

    def _token_step(self) -> None:
        token, slot, order, position = torch.split(self._newest, 1)
        x = self.weights.embedding.index_select(0, token)
        self.cache.inputs.index_copy_(0, slot, x)
        self.ops.begin(slot, order, position)
        x = llama_layers(self.ops, x, self.weights.layers)
        self._hidden.copy_(self.ops.norm(x, self.weights.norm))
        self._logits.copy_(self.ops.head(self._hidden))

    def run_token(self, token: int, slot: int, order: int, position: int) -> Forward:
        self.cache.born(np.array([slot]), np.array([position]))
        newest = torch.tensor([token, slot, order, position])
        self._newest.copy_(newest, non_blocking=True)
        self._token_graph.replay()
        return Forward(self._logits.clone(), self._hidden.clone())

    def run(
        self,
        slots: NDArray[np.int64],
        orders: NDArray[np.int64],
        positions: NDArray[np.int64],
        keep: int,
    ) -> Forward:
        self.cache.born(slots, positions)
        bucket = next(b for b in BUCKETS if b >= len(slots))
        hidden = self._graphs[bucket].run(np.stack([slots, orders, positions]))[-keep:].clone()
        return Forward(self.ops.head(hidden), hidden)

    def describe(self) -> str:
        return "own Llama step as Triton kernels under CUDA graphs"
