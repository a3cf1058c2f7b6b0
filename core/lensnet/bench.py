"""What a LensNet costs: milliseconds per refocus round at a given frontier."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megacontext.core.gistnet.gister import NetGister
from megacontext.core.gistnet.lexical import normalized
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.lensnet.lens import NetLens
from megacontext.core.lensnet.module import LensNet, LensNetConfig
from megacontext.core.rng import generator

__all__ = ["bench_lens"]


@dataclass(frozen=True)
class _Frontier:
    """Half raw blocks, half gists, over a history that just fits."""

    levels: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    n_tokens: int
    block_size: int
    tree: Any
    query_tokens: npt.NDArray[np.uint32]
    query_hidden: Any
    surprisal: None = None


class _RandomTree:
    """Random gists and keys in the place of a tree."""

    def __init__(self, blocks: int, block_size: int, dim: int, key_dim: int) -> None:
        draw = generator(0, "bench-lens")
        self._gists = draw.standard_normal((blocks, dim), np.float32) * np.float32(0.02)
        keys = draw.standard_normal((blocks, key_dim), np.float32)
        self._keys = normalized(keys)
        self._block_size = block_size

    def n_nodes(self, level: int) -> int:
        return int(len(self._gists) // self._block_size ** (level - 1))

    def gists(self, level: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        return self._gists[start:stop]

    def keys(self, level: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        return self._keys[start:stop]

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        return np.zeros(stop - start, np.uint32)


def bench_lens(
    entries: int = 8192, dim: int = 384, device: str = "cpu", repeats: int = 50
) -> dict[str, float | int | str]:
    """Time ``NetLens.score`` with a new question each time, scores on the host at the end.

    Args:
        entries: frontier entries; the history has as many blocks.
        dim: width of the base model.
        repeats: timed rounds after ten warm-up rounds.

    Returns:
        ``entries``, ``device``, and per round ``lens_ms_p50`` and ``lens_ms_p95`` in
        milliseconds of wall clock.
    """
    heads = 4 if dim % 128 else dim // 64
    block_size = 32
    config = GistNetConfig(dim, block_size, layers=1, heads=heads, kv_heads=heads, ffn=dim)
    gistnet = GistNet(config)
    gistnet.init_weights(0)

    target = torch.device(device)
    dtype = torch.bfloat16 if target.type == "cuda" else torch.float32
    embedding = torch.randn((1024, dim), generator=torch.Generator().manual_seed(0)) * 0.02
    encoder = NetGister(gistnet, embedding.to(target, dtype))
    lensnet = LensNet(LensNetConfig(dim, config.keys.key_dim, block_size))
    lensnet.init_weights(0)
    lens = NetLens(lensnet, encoder)

    tree = _RandomTree(entries, block_size, dim, config.keys.key_dim)
    index = np.arange(entries, dtype=np.int64)
    whole = []
    hidden = torch.zeros((4, dim), device=target, dtype=dtype)

    # Ten rounds of warm-up, then the measured ones.
    for turn in range(repeats + 10):
        question = generator(turn, "bench-question").integers(0, 1024, 32).astype(np.uint32)
        frontier = _Frontier(
            (index < entries // 2).astype(np.int64),
            index,
            index * block_size,
            entries * block_size,
            block_size,
            tree,
            question,
            hidden,
        )
        start = time.perf_counter()
        lens.score(frontier)
        elapsed = (time.perf_counter() - start) * 1e3
        if turn >= 10:
            whole.append(elapsed)
    return {
        "entries": entries,
        "device": str(target),
        "lens_ms_p50": statistics.median(whole),
        "lens_ms_p95": sorted(whole)[int(0.95 * (len(whole) - 1))],
    }
