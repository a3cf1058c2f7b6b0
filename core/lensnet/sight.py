"""One scoring pass as a pure function of tensors, and its replay as a CUDA graph.

Shapes: N frontier entries, n1 stored level-1 nodes, V key_dim, D width, q question tokens,
h hidden states.

A pass is some 300 small kernels, so on a GPU launching them costs several times their work. There
the pass runs on fixed buffers whose sizes are powers of two, is captured once per size and
replayed: one copy in, one replay, one copy out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from megacontext.core.gistnet.keys import KeyTower
from megacontext.core.lensnet.features import (
    before_question,
    node_features,
    node_similarity,
    shared_with_neighbours,
)
from megacontext.core.lensnet.module import LensNet, TailQueries

__all__ = ["NEIGHBOUR_SHARE", "Replay", "Stored", "lens_pass"]

NEIGHBOUR_SHARE = 0.8


@dataclass(frozen=True)
class Stored:
    """What the lens's device holds of the tree; rows behind the counts are arbitrary.

    Attributes:
        keys: [>= n1, V] float32. gists: one [>= n, D] per level from 1 on.
    """

    keys: Tensor
    gists: tuple[Tensor, ...]


def lens_pass(
    tower: KeyTower,
    net: LensNet,
    table: Tensor,
    stored: Stored,
    entries: Tensor,
    counts: Tensor,
    question: Tensor,
    hidden: Tensor,
    surprisal: Tensor,
) -> Tensor:
    """Scores float32[N] in [-1, 1].

    Args:
        table: [vocab + 1, D] token embeddings, the padding vector last.
        entries: int64[3, N]: level (-1: padding), index, start in tokens.
        counts: int64[4]: tokens of the history, level-1 nodes, level-2 nodes, hidden states.
        question: int64[q]; the newest tokens, padded on the left with the last row's number.
        hidden: [h, D], the newest last. surprisal: float32[N], 0 where unknown.
    """
    config = net.config
    size = config.block_size
    levels, index, starts = entries[0].clamp(min=0), entries[1], entries[2]
    valid = entries[0] >= 0
    asked = table[question]
    real = question < len(table) - 1
    queries_MV = tower.queries(asked[None], real[None])[0].float()
    number = torch.arange(len(stored.keys), device=entries.device)
    blocks = (stored.keys @ queries_MV.T).amax(dim=1)
    blocks = before_question(blocks, counts[:1], real.sum(), size)
    blocks = torch.where(number < counts[1], blocks, -2.0)
    shared = shared_with_neighbours(blocks, NEIGHBOUR_SHARE)
    highest = len(stored.gists)
    own = node_similarity(blocks, levels, index, size, highest)
    near = node_similarity(shared, levels, index, size, highest)
    features = node_features(
        own[None],
        near[None],
        levels[None],
        starts[None],
        counts[:1],
        size,
        surprisal[None],
        valid[None],
    )
    gists = _gists(stored, levels, index)
    tail = _tail(net, stored, counts, asked, real, hidden, queries_MV)
    kind = gists.dtype
    scores = net(gists[None], levels[None], features.to(kind), tail, valid[None])
    result: Tensor = scores[0]
    return result


def _gists(stored: Stored, levels: Tensor, index: Tensor) -> Tensor:
    span = levels.clamp(min=1)
    rows = stored.gists[0][torch.where(span == 1, index, 0)]
    for level, held in enumerate(stored.gists[1:], 2):
        here = span == level
        rows = torch.where(here[:, None], held[torch.where(here, index, 0)], rows)
    return rows


def _tail(
    net: LensNet,
    stored: Stored,
    counts: Tensor,
    asked: Tensor,
    real: Tensor,
    hidden: Tensor,
    queries_MV: Tensor,
) -> TailQueries:
    config, device = net.config, counts.device
    kind = asked.dtype
    newest = counts[1] - config.near_gists + torch.arange(config.near_gists, device=device)
    near = stored.gists[0][newest.clamp(min=0)]
    has_cover = counts[2:3] > 0
    if len(stored.gists) > 1:
        cover = stored.gists[1][(counts[2:3] - 1).clamp(min=0)]
    else:
        cover = near[:1]
        has_cover = torch.zeros_like(has_cover)
    age = torch.arange(len(hidden), 0, -1, device=device)
    every = torch.ones(len(queries_MV), dtype=torch.bool, device=device)
    return TailQueries(
        tokens=asked[None, -config.query_tokens :],
        hidden=hidden[None].to(kind),
        near=near[None].to(kind),
        cover=cover[None].to(kind),
        keys=queries_MV[None].to(kind),
        valid=torch.cat(
            (real[-config.query_tokens :], age <= counts[3], newest >= 0, has_cover, every)
        )[None],
    )


class Replay:
    """A captured pass over fixed buffers of one size.

    Args:
        run: takes (entries, counts, question, hidden, surprisal) on the device.
        entries, question, hidden: sizes N, q and (h, D).
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
        # All integers travel as one copy: entries, then counts, then the question.
        self._packed = torch.zeros(3 * entries + 4 + question, dtype=torch.int64, device=device)
        self._entries = self._packed[: 3 * entries].view(3, entries)
        self._entries[0] = -1
        self._entries[0, 0] = 1
        self._counts = self._packed[3 * entries : 3 * entries + 4]
        self._counts.fill_(1)
        self._question = self._packed[3 * entries + 4 :]
        self.hidden = torch.zeros(hidden, dtype=dtype, device=device)
        self.surprisal = torch.zeros(entries, device=device)
        self._staging = torch.zeros(len(self._packed), dtype=torch.int64, pin_memory=True)
        arguments = (self._entries, self._counts, self._question, self.hidden, self.surprisal)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # library handles and workspaces come into being
            for _ in range(2):
                run(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            scores = run(*arguments)
        self._scores = scores
        self._result = torch.zeros(entries, pin_memory=True)

    def __call__(self, entries: Tensor, counts: Tensor, question: Tensor) -> Tensor:
        """Scores float32[n] on the host, for n <= N entries given on the host."""
        width, given = self._entries.shape[1], entries.shape[1]
        torch.cuda.current_stream().synchronize()  # the staging buffer is free again
        staged = self._staging[: 3 * width].view(3, width)
        staged[0].fill_(-1)
        staged[:, :given] = entries
        self._staging[3 * width : 3 * width + 4] = counts
        self._staging[3 * width + 4 :] = question
        self._packed.copy_(self._staging, non_blocking=True)
        self._graph.replay()
        self._result.copy_(self._scores, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return self._result[:given]
