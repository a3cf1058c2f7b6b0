"""``megacontext bench decode``: what a token costs, and what refocusing adds.

The model has random weights; only its shape matters. Histories are synthetic: their gists are
random vectors, since the cost of a window depends on its rows alone. One measured *cycle* decodes
one block greedily, token by token with the choice fed back, and then follows one refocus: four
random edits (two expansions, two collapses) and the collapses that make room for the next block.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import SmolLM3Config, SmolLM3ForCausalLM

from megacontext.core.model import BaseModel, KVWindow, Layout
from megacontext.core.model.decoder import RunnerKind
from megacontext.core.rng import generator

__all__ = ["SHAPES", "bench"]

_BLOCK = 32
Progress = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class _Shape:
    """A SmolLM3-type model (no rotary positions in every fourth layer) with tied embeddings."""

    layers: int
    dim: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    w_max: int
    histories: tuple[int, ...]


SHAPES = {
    "smollm3-3b": _Shape(36, 2048, 16, 4, 11008, 128256, 8192, (8192, 131072, 1048576)),
    "tiny": _Shape(4, 128, 4, 2, 256, 512, 512, (512, 4096, 32768)),
}


@dataclass
class _History:
    """A synthetic history and a legal working context over it."""

    n_tokens: int
    w_max: int
    seed: int
    dim: int
    frontier: list[tuple[int, int]] = field(default_factory=list)
    step: int = 0

    def __post_init__(self) -> None:
        rng = generator(self.seed, "bench-history", self.n_tokens)
        self._vectors = rng.standard_normal((1024, self.dim), dtype=np.float32) * 0.02
        self._tokens = rng.integers(0, 500, 8192).astype(np.uint32)
        block, self.frontier = 0, []
        blocks = self.n_tokens // _BLOCK
        while block < blocks:  # the coarsest tiling
            level = 1
            while block % _BLOCK**level == 0 and block + _BLOCK**level <= blocks:
                level += 1
            self.frontier.append((level, block // _BLOCK ** (level - 1)))
            block += _BLOCK ** (level - 1)
        while self.free() >= 3 * _BLOCK:
            self._expand(rng)

    def free(self) -> int:
        """Rows left in the budget."""
        cost = sum(_BLOCK if level == 0 else 1 for level, _ in self.frontier)
        return self.w_max - cost - self.n_tokens % _BLOCK

    def close_block(self) -> None:
        """The tail has become a raw block."""
        self.frontier.append((0, self.n_tokens // _BLOCK))
        self.n_tokens += _BLOCK

    def refocus(self) -> None:
        """Two expansions and two collapses at random, then collapses until a block is free."""
        rng = generator(self.seed, "bench-refocus", self.step)
        self.step += 1
        for _ in range(2):
            self._collapse(rng)
            self._expand(rng)
        while self.free() < _BLOCK:
            self._collapse(rng)

    def _expand(self, rng: np.random.Generator) -> None:
        gists = [i for i, (level, _) in enumerate(self.frontier) if level > 0]
        if gists and self.free() >= _BLOCK - 1:
            at = int(rng.choice(gists))
            level, index = self.frontier[at]
            children = [(level - 1, index * _BLOCK + i) for i in range(_BLOCK)]
            self.frontier[at : at + 1] = children if level > 1 else [(0, index)]

    def _collapse(self, rng: np.random.Generator) -> None:
        foldable = self.frontier[:-4]
        raw = [i for i, (level, _) in enumerate(foldable) if level == 0]
        groups = [
            i
            for i, (level, index) in enumerate(foldable)
            if level > 0
            and index % _BLOCK == 0
            and foldable[i : i + _BLOCK] == [(level, index + j) for j in range(_BLOCK)]
        ]
        at = int(rng.choice(raw + groups))
        level, index = self.frontier[at]
        if level == 0:
            self.frontier[at] = (1, index)
        else:
            self.frontier[at : at + _BLOCK] = [(level + 1, index // _BLOCK)]

    def layout(self) -> Layout:
        table = np.array(self.frontier, dtype=np.int64).reshape(-1, 2)
        tail = self.n_tokens // _BLOCK * _BLOCK
        return Layout(table[:, 0].astype(np.int8), table[:, 1], tail, self.n_tokens, _BLOCK)

    def vectors(self, level: int, index: NDArray[np.int64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._vectors[(index + level) % len(self._vectors)]
        return found

    def tokens(self, start: int, stop: int) -> NDArray[np.uint32]:
        found: NDArray[np.uint32] = self._tokens[np.arange(start, stop) % len(self._tokens)]
        return found


def bench(
    shape: Literal["auto", "smollm3-3b", "tiny"] = "auto",
    *,
    device: str = "auto",
    cycles: int = 12,
    exact_cycles: int = 3,
    eager_tokens: int = 8,
    seed: int = 0,
    progress: Progress = print,
) -> dict[str, Any]:
    """Time decoding with and without refocusing.

    Args:
        shape: a name in :data:`SHAPES`; ``auto`` is smollm3-3b on a GPU and tiny on a CPU.
        cycles: measured cycles per history in splice mode, after two for warming up.
        exact_cycles: the same in exact mode, at the shortest history.
        eager_tokens: tokens decoded through the transformers forward for reference.

    Returns:
        Milliseconds as medians with the spread of the cycles, and the ratios of the targets:
        ``overhead`` (refocusing / not) and ``flat`` (longest history / shortest).
    """
    position = torch.device(device if device != "auto" else _default_device())
    name = shape if shape != "auto" else ("smollm3-3b" if position.type == "cuda" else "tiny")
    base = _random_model(SHAPES[name], position)
    result: dict[str, Any] = {
        "shape": name,
        "machine": _machine(position),
        "w_max": SHAPES[name].w_max,
    }

    # Spliced windows over histories of several lengths.
    result["parameters"] = sum(p.numel() for p in base.module.parameters())
    for history in SHAPES[name].histories:
        progress(f"splice, history of {history} tokens")
        result[f"splice_{history}"] = _measure(base, SHAPES[name], history, "splice", cycles, seed)
        progress(str(result[f"splice_{history}"]))

    # The exact window and the transformers forward, to compare with.
    min_length, max_length = min(SHAPES[name].histories), max(SHAPES[name].histories)
    progress("exact")
    result["exact"] = _measure(base, SHAPES[name], min_length, "exact", exact_cycles, seed)
    progress("transformers forward")
    result["hf_token_ms"] = _eager(base, SHAPES[name], min_length, eager_tokens, seed)

    # The ratios of the targets.
    splice = {h: result[f"splice_{h}"] for h in SHAPES[name].histories}
    result["token_ms"] = splice[min_length]["token_ms"]
    result["overhead"] = max(s["overhead"] for s in splice.values())
    result["flat"] = splice[max_length]["cycle_token_ms"] / splice[min_length]["cycle_token_ms"]
    return result


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _machine(device: torch.device) -> str:
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{chip}, torch {torch.__version__}, transformers {transformers.__version__}"


def _random_model(shape: _Shape, device: torch.device) -> BaseModel:
    config = SmolLM3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.dim,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4 * shape.w_max,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )

    # Made on the device in its type: in float32 on the host it would need four times the memory.
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            module = SmolLM3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return BaseModel.from_module(module, name="random")


def _measure(
    base: BaseModel, shape: _Shape, n_tokens: int, mode: str, cycles: int, seed: int
) -> dict[str, Any]:
    """Decode and refocus in turn; the first two cycles are not counted."""
    history = _History(n_tokens, shape.w_max, seed, shape.dim)
    window = KVWindow(base, shape.w_max, mode)
    window.sync(history.layout(), history.vectors, history.tokens)
    decode_ms, sync_ms, rows = [], [], []

    # A block of tokens, then the edit behind it.
    for cycle in range(cycles + 2):
        decoding, _ = _timed(partial(_decode, window, _BLOCK), base.device)
        history.close_block()
        history.refocus()
        sync = partial(window.sync, history.layout(), history.vectors, history.tokens)
        following, stats = _timed(sync, base.device)
        if cycle >= 2:
            decode_ms.append(decoding / _BLOCK)
            sync_ms.append(following)
            rows.append(stats.rows)

    # Medians of the cycles that count.
    token, refocus = median(decode_ms), median(sync_ms)
    return {
        "runner": window.runner.describe(),
        "window_rows": len(window),
        "token_ms": token,
        "token_ms_range": [min(decode_ms), max(decode_ms)],
        "refocus_ms": refocus,
        "refocus_ms_range": [min(sync_ms), max(sync_ms)],
        "refocus_rows": median(rows),
        "cycle_token_ms": token + refocus / _BLOCK,
        "overhead": (token + refocus / _BLOCK) / token,
    }


def _eager(base: BaseModel, shape: _Shape, n_tokens: int, tokens: int, seed: int) -> float:
    runner: RunnerKind = "hf"
    history = _History(n_tokens, shape.w_max, seed, shape.dim)
    window = KVWindow(base, shape.w_max, "splice", runner=runner)
    window.sync(history.layout(), history.vectors, history.tokens)
    _decode(window, 2)
    return _timed(partial(_decode, window, tokens), base.device)[0] / tokens


def _decode(window: KVWindow, tokens: int) -> None:
    assert window.last is not None
    token = int(window.last.logits[-1].argmax())
    for _ in range(tokens):
        token = int(window.decode(token).logits[-1].argmax())


def _timed(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Milliseconds of ``work``, the device's queue included, and its result."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e3, result
