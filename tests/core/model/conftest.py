"""Tiny random models and a history that the model tests share."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from megacontext.core.model import BaseModel, Layout

VOCAB, DIM, WINDOW, BLOCK = 97, 32, 512, 4
ROTARY = ("llama", "llama3", "yarn", "mistral", "smollm3", "qwen2", "qwen3")
KINDS = (*ROTARY, "gpt2")

_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}


def _module(kind: str, **shape: Any) -> torch.nn.Module:
    shared = {
        "vocab_size": VOCAB,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.2,
    }
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(**shared, n_embd=DIM, n_layer=3, n_head=4, n_positions=WINDOW)
        )
    shared |= {
        "hidden_size": DIM,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": WINDOW,
        "pad_token_id": 0,
    } | shape
    if kind == "smollm3":
        return SmolLM3ForCausalLM(SmolLM3Config(**shared))
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(**shared, sliding_window=None))
    if kind == "qwen2":
        module = Qwen2ForCausalLM(Qwen2Config(**shared))
        for name, value in module.named_parameters():
            if name.endswith("bias"):  # transformers starts them at 0
                torch.nn.init.normal_(value, std=0.5)
        return module
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**({"head_dim": 16} | shared)))
    rope = {"llama3": {"rope_parameters": _LLAMA3}, "yarn": {"rope_parameters": _YARN}}
    return LlamaForCausalLM(LlamaConfig(**shared, **rope.get(kind, {})))


_MODELS: dict[str, BaseModel] = {}


@pytest.fixture(scope="session")
def tiny_model():
    """tiny_model(kind) -> a frozen float32 model; the same one at every call."""

    def build(kind: str) -> BaseModel:
        if kind not in _MODELS:
            torch.manual_seed(0)
            _MODELS[kind] = BaseModel.from_module(_module(kind), name=kind)
        return _MODELS[kind]

    return build


@pytest.fixture(scope="session")
def tiny_module():
    """tiny_module(kind, **shape) -> a fresh module of that kind, with other sizes if given."""
    return _module


@dataclass
class History:
    """A random history with random gists, and a legal frontier that edits can change."""

    n_tokens: int = 0
    seed: int = 0
    frontier: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.ids = rng.integers(0, VOCAB, 4096).astype(np.uint32)
        self.gists = rng.standard_normal((8, 1024, DIM)).astype(np.float32) * 0.2
        self.asked: list[tuple[str, int, int]] = []

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` tokens; closed blocks join the frontier raw."""
        tokens = self.ids[self.n_tokens : self.n_tokens + count]
        for block in range(self.n_tokens // BLOCK, (self.n_tokens + count) // BLOCK):
            self.frontier.append((0, block))
        self.n_tokens += count
        return tokens

    def cost(self) -> int:
        return sum(BLOCK if level == 0 else 1 for level, _ in self.frontier) + (
            self.n_tokens % BLOCK
        )

    def edit(self, pick: int, free: int) -> bool:
        """One legal edit chosen by ``pick``: expand a gist or collapse; False if none is legal."""
        options = []
        for at, (level, index) in enumerate(self.frontier):
            if level == 0:
                options.append((at, 1, [(1, index)]))
                continue
            if free >= BLOCK - 1:
                children = [(level - 1, index * BLOCK + i) for i in range(BLOCK)]
                options.append((at, 1, children if level > 1 else [(0, index)]))
            siblings = [(level, index + i) for i in range(BLOCK)]
            if index % BLOCK == 0 and self.frontier[at : at + BLOCK] == siblings:
                options.append((at, BLOCK, [(level + 1, index // BLOCK)]))
        if not options:
            return False
        at, width, new = options[pick % len(options)]
        self.frontier[at : at + width] = new
        return True

    def layout(self) -> Layout:
        table = np.array(self.frontier, dtype=np.int64).reshape(-1, 2)
        return Layout(
            table[:, 0].astype(np.int8),
            table[:, 1],
            self.n_tokens // BLOCK * BLOCK,
            self.n_tokens,
            BLOCK,
        )

    def vectors(self, level: int, index: np.ndarray) -> np.ndarray:
        self.asked += [("gist", level, int(i)) for i in index]
        return self.gists[level, index]

    def tokens(self, start: int, stop: int) -> np.ndarray:
        self.asked += [("token", 0, t) for t in range(start, stop)]
        return self.ids[start:stop]

    def inputs(self, base: BaseModel) -> torch.Tensor:
        """Input embeddings of the whole working context, row by row, the plain way."""
        rows = []
        for level, index in self.frontier:
            if level == 0:
                rows.append(base.embed(self.ids[index * BLOCK : (index + 1) * BLOCK]))
            else:
                rows.append(torch.from_numpy(self.gists[level, index])[None])
        rows.append(base.embed(self.ids[self.n_tokens // BLOCK * BLOCK : self.n_tokens]))
        return torch.cat(rows)


@pytest.fixture(scope="session")
def history():
    """history(seed) -> a fresh :class:`History`."""
    return lambda seed=0: History(seed=seed)


@pytest.fixture(scope="session")
def recompute():
    """recompute(base, history, window) -> logits of all rows by one plain forward."""

    def run(base: BaseModel, history: History, window) -> torch.Tensor:
        x = history.inputs(base)
        positions = torch.from_numpy(window.row_positions.copy())
        # Without a mask transformers takes jumps in the positions for separate sequences.
        mask = torch.ones(len(x), len(x), dtype=torch.bool).tril()[None, None]
        out = base.module(
            inputs_embeds=x[None],
            position_ids=positions[None],
            attention_mask=mask,
            use_cache=False,
        )
        return out.logits[0]

    return run
