"""Gists as input embeddings of coarse entries, for a base model that learns to read them.

Each row lists the blocks that its coarse entries replace (``CoarseEntries``); all blocks of the
batch are encoded in one pass of a frozen GistNet. A level-2 gist would stand for K blocks of text
that the row does not contain, so a random group of K blocks of the batch is used instead.

Shapes: B rows, T tokens, N blocks, K tokens per block, C left context, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.data.recall.window_sampling import CoarseEntries
from megacontext.core.gistnet.gister import load_gistnet
from megacontext.traces.errors import ConfigError

__all__ = ["GistInputs", "assign_gists"]

_CHUNK = 2048  # blocks per pass: one shape, whatever a batch holds


def assign_gists(
    rng: np.random.Generator,
    rows: Sequence[CoarseEntries | None],
    length: int,
    blocks: int,
    block_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Assigns the batch's coarse entries to gists, and lists the blocks to encode.

    Args:
        blocks: N, capacity of the batch, a multiple of K; entries beyond it reuse the first gists.

    Returns:
        ``places`` int32 [B, length]: -1 for a token, below N the gist of that block, from N on the
        gist of a group of K blocks. ``blocks`` int32 [N, 2K]: as in ``CoarseEntries``.
    """
    positions = np.full((len(rows), length), -1, np.int32)
    gist_blocks = np.full((blocks, 2 * block_size), -1, np.int32)
    count = 0
    for number, row in enumerate(rows):
        if row is None:
            continue
        numbers = count + np.arange(len(row.level1_positions))
        positions[number, row.level1_positions] = numbers % blocks
        fresh = numbers < blocks
        gist_blocks[numbers[fresh]] = row.blocks[fresh]
        count += len(numbers)
    groups = min(count, blocks) // block_size
    for number, row in enumerate(rows):
        if row is not None and groups:
            sampled = rng.integers(groups, size=len(row.level2_positions))
            positions[number, row.level2_positions] = blocks + sampled
    return positions, gist_blocks


class GistInputs:
    """Builds input embeddings in which some entries are gists.

    Args:
        folder: of a GistNet that was trained for this input ``embedding`` [vocab, D].
        trained: gradients reach the weights that gists depend on; otherwise the GistNet is
            frozen. Index keys, and the padding that they read, never change.

    Raises:
        ModelError: no readable GistNet, or one of another base model.
        ConfigError: its blocks or its left context do not fit training rows.
    """

    def __init__(
        self, folder: Path, embedding: Tensor, block_size: int, *, trained: bool = False
    ) -> None:
        net, self.checkpoint_id = load_gistnet(folder, embedding)
        config = net.config
        if config.block_size != block_size or config.left_context > block_size:
            raise ConfigError(
                f"gistnet: {folder} reads blocks of {config.block_size} tokens behind "
                f"{config.left_context}; use one with blocks of {block_size} and no more context."
            )
        kind = torch.bfloat16 if embedding.is_cuda else torch.float32
        self.net = net.to(embedding.device, torch.float32 if trained else kind)
        if trained:
            self.net.train()
            for parameter in self.net.gist_parameters():
                parameter.requires_grad_(parameter is not self.net.pad)
        self._size, self._left = block_size, config.left_context
        self._table = torch.cat((embedding.detach().to(kind), self.net.pad.detach()[None].to(kind)))
        if embedding.is_cuda:
            for layer in self.net.encoder.layers:
                layer.compile(dynamic=False)

    def gists(self, blocks_NC: Tensor) -> Tensor:
        """[N + N / K, D]: gists of N blocks, then of their groups of K."""
        pad = len(self._table) - 1
        target = blocks_NC.long()[:, self._size - self._left :]
        target = torch.where(target < 0, pad, target)
        target = functional.pad(target, (0, 0, 0, -len(target) % _CHUNK), value=pad)
        lower, upper = [], []
        for start in range(0, len(target), _CHUNK):
            part = target[start : start + _CHUNK]
            lower.append(self.net(functional.embedding(part, self._table), 1))
            children = lower[-1].to(self._table.dtype).view(-1, self._size, lower[-1].shape[-1])
            upper.append(self.net(children, 2))
        count = len(blocks_NC)
        return torch.cat((torch.cat(lower)[:count], torch.cat(upper)[: count // self._size]))

    def mixed(self, x_BTD: Tensor, index_BT: Tensor, blocks_NC: Tensor) -> Tensor:
        """``x`` with gists where ``places`` says so; see :func:`assign_gists`."""
        gists = functional.embedding(index_BT.long().clamp(min=0), self.gists(blocks_NC))
        return torch.where((index_BT >= 0)[..., None], gists.to(x_BTD.dtype), x_BTD)
