"""Rows of a Llama-type model as CUDA graphs: one for a decoded token, one per batch size.

Everything that changes from step to step lies in device tensors at fixed addresses (slots, window
orders, positions, the token), so a step is one small copy and one replay. A step ends with the
likeliest next token, which the next step can read on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megacontext.core.model.base import BaseModel, Forward
from megacontext.core.model.choice import Choice
from megacontext.core.model.fast_llama import llama_layers
from megacontext.core.model.llama_weights import llama_weights
from megacontext.core.model.slotted_cache import DEAD, SlottedCache
from megacontext.core.model.token_step import TokenStep
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
        self._token = TokenStep(self.weights, cache)
        self._choices = 0  # made so far; the last of them is in _token.chosen
        self._pool = torch.cuda.graph_pool_handle()
        self._token_graph = self.capture(partial(self._token.compute, self.ops))
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

    def run_token(self, token: int, slot: int, order: int, position: int) -> Forward:
        return self._run_token(token, slot, order, position)

    def _run_token(self, token: int | None, slot: int, order: int, position: int) -> Forward:
        self.cache.born(np.array([slot]), np.array([position]))
        self._token.send(token, slot, order, position)
        self._token_graph.replay()

        # What the next replay overwrites.
        logits, hidden = self._token.logits.clone(), self._token.hidden.clone()
        return Forward(logits, hidden, self._chosen())

    def _chosen(self) -> Choice:
        self._choices += 1
        return Choice(self._token.choice, self._choices)

    def run_choice(self, choice: Choice, slot: int, order: int, position: int) -> Forward:
        on_device = choice.number == self._choices
        return self._run_token(None if on_device else choice.token, slot, order, position)

    def write_choice(self, choice: Choice, slot: int) -> None:
        on_device = choice.number == self._choices
        ids = self._token.chosen if on_device else choice.token
        self.cache.inputs[slot] = self.weights.embedding[ids]

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
        logits = self.ops.head(hidden)
        self._token.choose(self.ops, logits[-1:])
        return Forward(logits, hidden, self._chosen())

    def describe(self) -> str:
        return "own Llama step as Triton kernels under CUDA graphs"
