"""From a batch of states to what LensNet reads, with the frozen gister, on one device.

Shapes: R states, B blocks, G groups, N frontier entries, V key_dim, D width, M query vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megacontext.core.gistnet.module import GistNet
from megacontext.core.lensnet.features import (
    before_question,
    node_features,
    shared_with_neighbours,
)
from megacontext.core.lensnet.module import LensNet, TailQueries
from megacontext.core.lensnet.sight import NEIGHBOUR_SHARE
from megacontext.core.training.gistnet_base import FrozenBase, block_inputs
from megacontext.core.training.gistnet_key_judge import question_inputs

__all__ = ["Memory", "View", "over_frontier", "remember", "view"]


@dataclass(frozen=True)
class Memory:
    """What the tree would hold: ``gists`` [R, B, D], ``upper`` [R, G, D], ``keys`` [R, B, V]."""

    gists: Tensor
    upper: Tensor
    keys: Tensor


@dataclass(frozen=True)
class View:
    """LensNet's arguments, and ``similarity`` [R, N] for those who rank by it alone."""

    gists: Tensor
    levels: Tensor
    features: Tensor
    tail: TailQueries
    valid: Tensor
    similarity: Tensor

    def scores(self, net: LensNet) -> Tensor:
        """Logits [R, N]."""
        return net.logits(self.gists, self.levels, self.features, self.tail, self.valid)


@torch.no_grad()
def remember(base: FrozenBase, net: GistNet, tokens_RT: Tensor, chunk: int = 4096) -> Memory:
    """Gists and keys of histories whose length is a multiple of the block size."""
    size = net.config.block_size
    rows, blocks = tokens_RT.shape[0], tokens_RT.shape[1] // size
    every = torch.arange(blocks, device=tokens_RT.device)
    gists, keys = [], []
    step = max(1, chunk // blocks)
    for start in range(0, rows, step):
        part = tokens_RT[start : start + step]
        x, _ = block_inputs(base, net, part, every.expand(len(part), -1))
        gists.append(net(x.flatten(0, 1), 1).view(len(part), blocks, -1))
        keys.append(net.keys.keys(x.flatten(0, 1), size).view(len(part), blocks, -1))
    all_gists = torch.cat(gists)
    groups = blocks // size
    children = all_gists[:, : groups * size].reshape(-1, size, all_gists.shape[-1])
    upper = net(children, 2).view(rows, groups, -1)
    return Memory(all_gists, upper, torch.cat(keys))


def over_frontier(blocks_RB: Tensor, levels_RN: Tensor, index_RN: Tensor, size: int) -> Tensor:
    """Max-pools a value per block over what each frontier entry covers: [R, N]."""
    rows, blocks = blocks_RB.shape
    groups = blocks // size
    pooled = blocks_RB[:, : groups * size].view(rows, groups, size).amax(2)
    if not groups:
        pooled = blocks_RB[:, :1]
    one = blocks_RB.gather(1, index_RN.clamp(max=blocks - 1))
    two = pooled.gather(1, index_RN.clamp(max=pooled.shape[1] - 1))
    return torch.where(levels_RN == 2, two, one)


@torch.no_grad()
def view(
    base: FrozenBase,
    net: GistNet,
    lens: LensNet,
    memory: Memory,
    questions_RQ: Tensor,
    levels_RN: Tensor,
    index_RN: Tensor,
    n_tokens_R: Tensor,
    hidden_RHD: Tensor | None,
) -> View:
    """What LensNet sees of each state.

    Args:
        questions_RQ: the newest tokens. levels_RN: -1 where a row is padding.
        n_tokens_R: lengths of the histories, the open block's tokens among them.
    """
    size, config = net.config.block_size, lens.config
    asked, real = question_inputs(base, net, questions_RQ)
    queries = net.keys.queries(asked, real).float()
    with torch.autocast(queries.device.type, enabled=False):
        blocks = (memory.keys.float() @ queries.transpose(1, 2)).amax(2)
    asks = real.sum(1, keepdim=True)
    blocks = before_question(blocks, n_tokens_R[:, None], asks, size)
    valid = levels_RN >= 0
    levels = levels_RN.clamp(min=0)
    shared = shared_with_neighbours(blocks, NEIGHBOUR_SHARE)
    own = over_frontier(blocks, levels, index_RN, size)
    near = over_frontier(shared, levels, index_RN, size)
    width = torch.where(levels == 2, size * size, size)
    features = node_features(own, near, levels, index_RN * width, n_tokens_R, size, valid=valid)
    dim = memory.gists.shape[-1]
    one = memory.gists.gather(1, _wide(index_RN.clamp(max=memory.gists.shape[1] - 1), dim))
    gists = one
    if memory.upper.shape[1]:
        two = memory.upper.gather(1, _wide(index_RN.clamp(max=memory.upper.shape[1] - 1), dim))
        gists = torch.where((levels == 2)[..., None], two, one)
    newest = asked[:, -config.query_tokens :]
    hidden = newest[:, :0] if hidden_RHD is None else hidden_RHD[:, -config.hidden_states :]
    tail = TailQueries(
        tokens=newest,
        hidden=hidden.to(newest.dtype),
        near=memory.gists[:, -config.near_gists :].to(newest.dtype),
        cover=memory.upper[:, -1:].to(newest.dtype),
        keys=queries.to(newest.dtype),
    )
    return View(gists.to(newest.dtype), levels, features, tail, valid, own)


def _wide(index: Tensor, dim: int) -> Tensor:
    return index[..., None].expand(-1, -1, dim)
