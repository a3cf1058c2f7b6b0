"""One scoring pass as a pure function of tensors, and its replay as a CUDA graph.

Shapes: R states, N frontier entries, n1 stored level-1 nodes, V key_dim, M query vectors, D width,
q question tokens, h hidden states.

A pass is some 300 small kernels, so on a GPU launching them costs several times their work. There
the pass runs on fixed buffers whose sizes are powers of two, is captured once per size and
replayed: one copy in, one replay, one copy out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megacontext.core.gistnet.keys import KeyTower
from megacontext.core.lensnet.features import FEATURES, known_blocks, node_features
from megacontext.core.lensnet.module import LensNet, LensNetConfig, TailQueries

__all__ = ["LensInputs", "Replay", "State", "Stored", "lens_inputs", "lens_pass"]


F32 = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Stored:
    """What the lens's device holds of R trees; rows behind the counts are arbitrary.

    Attributes:
        keys: [R, >= n1, V] float32. gists: one [R, >= n, D] per level from 1 on.
        read: gists are [R, >= n, E], as :meth:`LensNet.read_gists` has them.
    """

    keys: Tensor
    gists: tuple[Tensor, ...]
    read: bool = False


@dataclass(frozen=True)
class State:
    """R moments of sessions, as tensors.

    Attributes:
        levels: int[R, N], -1: padding. index, starts: int[R, N].
        n_tokens, n_blocks, n_groups: int[R], tokens, level-1 and level-2 nodes of each history.
        question: [R, q, D] embeddings of the newest tokens, padded on the left; real: bool[R, q].
        hidden: [R, h, D], the newest last; hidden_count: int[R], how many of them are real.
        surprisal: float32[R, N], 0 where unknown.
    """

    levels: Tensor
    index: Tensor
    starts: Tensor
    n_tokens: Tensor
    n_blocks: Tensor
    n_groups: Tensor
    question: Tensor
    real: Tensor
    hidden: Tensor
    hidden_count: Tensor
    surprisal: Tensor


@dataclass(frozen=True)
class LensInputs:
    """What a LensNet scores, whatever its weights.

    Attributes:
        gists: each entry's, [R, N, D]; [R, N, E] where ``read``, and the tail's gists with them.
        similarity: [R, N], for those who rank by it alone.
    """

    gists: Tensor
    levels: Tensor
    features: Tensor
    tail: TailQueries
    valid: Tensor
    similarity: Tensor
    read: bool = False

    def place(self) -> Tensor:
        """float32[R, N]: how many blocks match better than an entry's best or one beside it."""
        ranks = [self.features[..., FEATURES.index(name)] for name in ("log_rank", "log_rank_near")]
        return torch.expm1(torch.minimum(*ranks).float() * 3)

    def logits(self, net: LensNet) -> Tensor:
        """Scores before the final tanh, float32[R, N]."""
        gists, tail = self.gists, self.tail
        if not self.read:
            sizes = [part.shape[1] for part in (gists, tail.near, tail.cover)]
            read = net.read_gists(torch.cat((gists, tail.near, tail.cover), 1))
            gists, near, cover = torch.split(read, sizes, dim=1)
            tail = replace(tail, near=near, cover=cover)
        return net.logits(gists, self.levels, self.features, tail, self.valid)


def lens_inputs(tower: KeyTower, config: LensNetConfig, stored: Stored, state: State) -> LensInputs:
    """What LensNet reads: the one way to it, for sessions and for training alike."""
    kind = state.question.dtype
    queries_RMV = tower.queries(state.question, state.real).float()
    with torch.autocast(queries_RMV.device.type, enabled=False):
        # Half precision would blur the order of the best.
        blocks_RB = (stored.keys.float() @ queries_RMV.transpose(1, 2)).amax(dim=2)
    levels = state.levels.clamp(min=0)
    asked = state.real.sum(dim=1)
    known = known_blocks(state.n_blocks, state.n_tokens, asked, config.block_size)
    features, own = node_features(
        blocks_RB,
        known,
        levels,
        state.index,
        state.starts,
        state.n_tokens,
        state.surprisal,
        config.block_size,
        len(stored.gists),
    )
    return LensInputs(
        _gists(stored, levels, state.index).to(kind),
        levels,
        features.to(kind),
        _tail(config, stored, state, queries_RMV),
        state.levels >= 0,
        own,
        stored.read,
    )


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
    """Scores float32[N] in [-1, 1] of one state.

    Args:
        table: [vocab + 1, D] token embeddings, the padding vector last.
        stored: with one tree.
        entries: int64[3, N]: level (-1: padding), index, start in tokens.
        counts: int64[4]: tokens of the history, level-1 nodes, level-2 nodes, hidden states.
        question: int64[q]; the newest tokens, padded on the left with the last row's number.
        hidden: [h, D], the newest last. surprisal: float32[N], 0 where unknown.
    """
    state = State(
        levels=entries[None, 0],
        index=entries[None, 1],
        starts=entries[None, 2],
        n_tokens=counts[0:1],
        n_blocks=counts[1:2],
        n_groups=counts[2:3],
        question=table[question][None],
        real=(question < len(table) - 1)[None],
        hidden=hidden[None],
        hidden_count=counts[3:4],
        surprisal=surprisal[None],
    )
    return torch.tanh(lens_inputs(tower, net.config, stored, state).logits(net))[0]


def _gists(stored: Stored, levels_RN: Tensor, index_RN: Tensor) -> Tensor:
    """[R, N, D or E]: each entry's gist; for a raw block the level-1 gist of that block."""
    span = levels_RN.clamp(min=1)
    rows = _rows(stored.gists[0], torch.where(span == 1, index_RN, 0))
    for level, held in enumerate(stored.gists[1:], 2):
        if held.shape[1]:
            here = span == level
            rows = torch.where(here[..., None], _rows(held, torch.where(here, index_RN, 0)), rows)
    return rows


def _rows(held_RND: Tensor, index_RM: Tensor) -> Tensor:
    return held_RND.gather(1, index_RM[..., None].expand(-1, -1, held_RND.shape[-1]))


def _tail(config: LensNetConfig, stored: Stored, state: State, queries_RMV: Tensor) -> TailQueries:
    kind, device = state.question.dtype, state.question.device
    latest = torch.arange(-config.near_gists, 0, device=device) + state.n_blocks[:, None]
    near = _rows(stored.gists[0], latest.clamp(min=0))

    # The gist of level 2 that covers the newest complete group, if there is one.
    last = state.n_groups[:, None] - 1
    has_cover = last >= 0
    if len(stored.gists) > 1 and stored.gists[1].shape[1]:
        cover = _rows(stored.gists[1], last.clamp(min=0))
    else:
        cover, has_cover = near[:, :1], torch.zeros_like(has_cover)

    age = torch.arange(state.hidden.shape[1], 0, -1, device=device)
    every = torch.ones(queries_RMV.shape[:2], dtype=torch.bool, device=device)
    return TailQueries(
        tokens=state.question[:, -config.query_tokens :],
        hidden=state.hidden.to(kind),
        near=near.to(kind),
        cover=cover.to(kind),
        keys=queries_RMV.to(kind),
        valid=torch.cat(
            (
                state.real[:, -config.query_tokens :],
                age <= state.hidden_count[:, None],
                latest >= 0,
                has_cover,
                every,
            ),
            dim=1,
        ),
    )


class Replay:
    """A captured pass over fixed buffers of one size.

    Args:
        run: takes (entries, counts, question, hidden, surprisal) on the device; what else it
            reads has to stay where it is, so it is kept alive here.
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
        # All integers travel as one copy: entries, then counts, then the question.
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
        with torch.cuda.stream(stream):  # library handles and workspaces come into being
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
        """Start a pass over n <= N entries; the host goes on while the device works.

        Args:
            entries: level, index and start of each.
            counts, question: as :func:`lens_pass` has them.
            surprisal: [n]; None: unknown.
        """
        # The last pass ended with a synchronization: the staging buffers are free.
        width, given = self._entries.shape[1], len(entries[0])
        rows = self._host[: 3 * width].reshape(3, width)
        for row, values, padding in zip(rows, entries, (-1, 0, 0), strict=True):
            row[:given] = values
            row[given:] = padding
        self._host[3 * width : 3 * width + 4] = counts
        self._host[3 * width + 4 :] = question
        self._host_surprisal[:given] = 0 if surprisal is None else surprisal
        self._packed.copy_(self._staging, non_blocking=True)
        self._surprisal.copy_(self._staged_surprisal, non_blocking=True)
        self._graph.replay()
        self._result.copy_(self._scores, non_blocking=True)

    def wait(self, given: int) -> F32:
        """Scores float32[n] of the pass under way, ``given`` = n."""
        torch.cuda.current_stream(self._packed.device).synchronize()
        scores: F32 = self._result[:given].numpy().copy()
        return scores
