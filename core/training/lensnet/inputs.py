"""LensNet's inputs for a batch of states, computed with the frozen GistNet on one device.

Shapes: R states, B blocks, N frontier entries, V key_dim, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megacontext.core.gistnet.module import GistNet
from megacontext.core.lensnet.features import node_max
from megacontext.core.lensnet.inputs import FrontierState, LensInputs, TreeTensors, lens_inputs
from megacontext.core.lensnet.module import LensNetConfig
from megacontext.core.training.common.frozen_base import FrozenBase, block_inputs, question_inputs

__all__ = ["HIGHEST", "build_lens_inputs", "encode_histories", "max_pool_frontier", "starts_of"]

HIGHEST = 3
"""Highest gist level: enough for histories of some thousand blocks."""


@torch.no_grad()
def encode_histories(
    base: FrozenBase, net: GistNet, tokens_RT: Tensor, chunk: int = 4096
) -> TreeTensors:
    """Gists and keys of trees over these histories; lengths are multiples of the block size."""
    size = net.config.block_size
    rows, blocks = tokens_RT.shape[0], tokens_RT.shape[1] // size
    all_blocks = torch.arange(blocks, device=tokens_RT.device)
    gists, keys = [], []

    # Level 1: gists and keys of all blocks, some rows at a time.
    step = max(1, chunk // blocks)
    for start in range(0, rows, step):
        part = tokens_RT[start : start + step]
        x, _ = block_inputs(base, net, part, all_blocks.expand(len(part), -1))
        gists.append(net(x.flatten(0, 1), 1).view(len(part), blocks, -1))
        keys.append(net.keys.keys(x.flatten(0, 1), size).view(len(part), blocks, -1))

    # Higher levels: gists of K gists of the level below.
    levels = [torch.cat(gists)]
    for level in range(2, HIGHEST + 1):
        children_level = levels[-1]
        groups = children_level.shape[1] // size
        children = children_level[:, : groups * size].reshape(
            rows * groups, size, children_level.shape[-1]
        )
        upper = net(children, level) if groups else children[:, 0]
        levels.append(upper.view(rows, groups, children_level.shape[-1]))
    return TreeTensors(torch.cat(keys).float(), tuple(levels))


def max_pool_frontier(blocks_RB: Tensor, levels_RN: Tensor, index_RN: Tensor, size: int) -> Tensor:
    """Max-pools a value per block over what each frontier entry covers: [R, N]."""
    return node_max(blocks_RB, levels_RN, index_RN, size, HIGHEST)


def starts_of(levels_RN: Tensor, index_RN: Tensor, size: int) -> Tensor:
    """First token of each entry."""
    return index_RN * size ** levels_RN.clamp(min=1)


@torch.no_grad()
def build_lens_inputs(
    base: FrozenBase,
    net: GistNet,
    config: LensNetConfig,
    memory: TreeTensors,
    questions_RQ: Tensor,
    levels_RN: Tensor,
    index_RN: Tensor,
    n_tokens_R: Tensor,
    hidden_RHD: Tensor | None = None,
    surprisal_RT: Tensor | None = None,
) -> LensInputs:
    """The inputs that LensNet would have in a session in each state.

    Args:
        questions_RQ: the newest tokens, padded on the left with negative numbers.
        levels_RN: -1 where a row is padding.
        n_tokens_R: lengths of the histories, including the tokens of the incomplete block.
        hidden_RHD: last hidden states of the newest tokens, the newest last; none if not given.
        surprisal_RT: NLL of each token of the complete blocks; unknown if not given.
    """
    size = net.config.block_size
    question, real = question_inputs(base, net, questions_RQ)
    rows, device = len(question), question.device

    # A session may have no hidden states yet.
    if hidden_RHD is None:
        hidden_RHD = question[:, :0]
    hidden = hidden_RHD[:, -config.hidden_states :].to(question.dtype)
    starts = starts_of(levels_RN, index_RN, size)
    counts = [rows_.shape[1] for rows_ in memory.gists]

    # Mean surprisal of the tokens that each entry covers.
    surprisal = torch.zeros(levels_RN.shape, device=device)
    if surprisal_RT is not None:
        total = torch.nn.functional.pad(surprisal_RT.double().cumsum(1), (1, 0))
        ends = (starts + size ** levels_RN.clamp(min=1)).clamp(max=total.shape[1] - 1)
        sums = total.gather(1, ends) - total.gather(1, starts.clamp(max=total.shape[1] - 1))
        surprisal = (sums / (ends - starts).clamp(min=1)).float()

    state = FrontierState(
        levels=levels_RN,
        index=index_RN,
        starts=starts,
        n_tokens=n_tokens_R,
        n_blocks=torch.full((rows,), counts[0], device=device),
        n_groups=torch.full((rows,), counts[1], device=device),
        question=question,
        real=real,
        hidden=hidden,
        hidden_count=torch.full((rows,), hidden.shape[1], device=device),
        surprisal=surprisal,
    )
    return lens_inputs(net.keys, config, memory, state)
