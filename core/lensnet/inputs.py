"""LensNet's inputs and its scoring pass, as pure functions of tensors.

Shapes: R states, N frontier entries, n1 level-1 nodes, V key_dim, M query vectors, D width,
q question tokens, h hidden states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from megacontext.core.gistnet.keys import KeyTower
from megacontext.core.lensnet.features import FEATURES, known_blocks, node_features
from megacontext.core.lensnet.module import LensNet, LensNetConfig, TailQueries

__all__ = ["FrontierState", "LensInputs", "TreeTensors", "lens_inputs", "lens_pass"]


@dataclass(frozen=True)
class TreeTensors:
    """Keys and gists of R trees on the lens's device; rows from the node counts on are arbitrary.

    Attributes:
        keys: [R, >= n1, V] float32. gists: one [R, >= n, D] per level from 1 on.
        read: whether gists are projected by :meth:`LensNet.read_gists`, to [R, >= n, E].
    """

    keys: Tensor
    gists: tuple[Tensor, ...]
    read: bool = False


@dataclass(frozen=True)
class FrontierState:
    """The frontiers and newest tokens of R sessions, as tensors.

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
    """The inputs of a LensNet for R frontiers.

    Attributes:
        gists: [R, N, D], one per entry; [R, N, E] if ``read``, as are the gists in ``tail``.
        similarity: [R, N] of index keys and queries, a baseline that ranks without a LensNet.
        read: whether the gists are projected by :meth:`LensNet.read_gists` already.
    """

    gists: Tensor
    levels: Tensor
    features: Tensor
    tail: TailQueries
    valid: Tensor
    similarity: Tensor
    read: bool = False

    def count_better(self) -> Tensor:
        """float32[R, N]: number of blocks that match better than an entry's best block and the
        neighbours of its blocks."""
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


def lens_inputs(
    tower: KeyTower, config: LensNetConfig, stored: TreeTensors, state: FrontierState
) -> LensInputs:
    """LensNet's inputs, built the same way in sessions and in training."""
    kind = state.question.dtype
    queries_RMV = tower.queries(state.question, state.real).float()
    with torch.autocast(queries_RMV.device.type, enabled=False):
        # Half precision would change the order of the best matches.
        blocks_RB = (stored.keys.float() @ queries_RMV.transpose(1, 2)).amax(dim=2)
    levels = state.levels.clamp(min=0)
    asked = state.real.sum(dim=1)
    known = known_blocks(state.n_blocks, state.n_tokens, asked, config.block_size)
    features, entry_similarity = node_features(
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
        entry_similarity,
        stored.read,
    )


def lens_pass(
    tower: KeyTower,
    net: LensNet,
    table: Tensor,
    stored: TreeTensors,
    entries: Tensor,
    counts: Tensor,
    question: Tensor,
    hidden: Tensor,
    surprisal: Tensor,
) -> Tensor:
    """Scores float32[N] in [-1, 1] of one state.

    Args:
        table: [vocab + 1, D] token embeddings, the padding vector last.
        stored: of one tree.
        entries: int64[3, N]: level (-1: padding), index, start in tokens.
        counts: int64[4]: tokens of the history, level-1 nodes, level-2 nodes, hidden states.
        question: int64[q]; the newest tokens, padded on the left with the last row's number.
        hidden: [h, D], the newest last. surprisal: float32[N], 0 where unknown.
    """
    state = FrontierState(
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


def _gists(stored: TreeTensors, levels_RN: Tensor, index_RN: Tensor) -> Tensor:
    """[R, N, D or E]: the gist of each entry; for a raw block, its level-1 gist."""
    span = levels_RN.clamp(min=1)
    rows = _rows(stored.gists[0], torch.where(span == 1, index_RN, 0))
    for level, of_level in enumerate(stored.gists[1:], 2):
        if of_level.shape[1]:
            is_level = span == level
            rows = torch.where(
                is_level[..., None], _rows(of_level, torch.where(is_level, index_RN, 0)), rows
            )
    return rows


def _rows(rows_RND: Tensor, index_RM: Tensor) -> Tensor:
    return rows_RND.gather(1, index_RM[..., None].expand(-1, -1, rows_RND.shape[-1]))


def _tail(
    config: LensNetConfig, stored: TreeTensors, state: FrontierState, queries_RMV: Tensor
) -> TailQueries:
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
    all_queries = torch.ones(queries_RMV.shape[:2], dtype=torch.bool, device=device)
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
                all_queries,
            ),
            dim=1,
        ),
    )
