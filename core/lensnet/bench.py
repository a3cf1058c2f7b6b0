"""What a LensNet costs: milliseconds per refocus round at a given frontier."""

from __future__ import annotations

import statistics
import time

import numpy as np
import numpy.typing as npt
import torch

from megacontext.core.gistnet.gister import NetGister
from megacontext.core.gistnet.lexical import normalized
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.lenses.base import Observation
from megacontext.core.lensnet.lens import NetLens
from megacontext.core.lensnet.module import LensNet, LensNetConfig
from megacontext.core.rng import generator

__all__ = ["bench_lens"]


class _RandomTree:
    """A tree with random gists and keys."""

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
    elapsed_ms = []
    hidden = torch.zeros((4, dim), device=target, dtype=dtype)

    # Half raw blocks, half gists, over a history that just fits; ten rounds of warm-up first.
    for turn in range(repeats + 10):
        question = generator(turn, "bench-question").integers(0, 1024, 32).astype(np.uint32)
        observation = Observation(
            levels=(index < entries // 2).astype(np.int8),
            index=index,
            starts=index * block_size,
            n_tokens=entries * block_size,
            tail_tokens=0,
            block_size=block_size,
            tree=tree,
            query_tokens=question,
            query_hidden=hidden,
        )
        start = time.perf_counter()
        lens.score(observation)
        elapsed = (time.perf_counter() - start) * 1e3
        if turn >= 10:
            elapsed_ms.append(elapsed)
    return {
        "entries": entries,
        "device": str(target),
        "lens_ms_p50": statistics.median(elapsed_ms),
        "lens_ms_p95": sorted(elapsed_ms)[int(0.95 * (len(elapsed_ms) - 1))],
    }
