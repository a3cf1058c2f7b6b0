"""Triton kernels under CUDA graphs against the transformers forward, on a GPU."""

import numpy as np
import pytest
import torch

from megacontext.core.model import BaseModel, KVWindow

pytestmark = pytest.mark.gpu

W_MAX = 200


@pytest.fixture
def cuda_model(tiny_module):
    """cuda_model(kind, dtype): head dimension 16 or more, as the kernels need."""
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        SmolLM3Config,
        SmolLM3ForCausalLM,
    )

    def build(kind: str, dtype: torch.dtype) -> BaseModel:
        torch.manual_seed(0)
        if kind == "qwen3":
            return BaseModel.from_module(tiny_module(kind).to("cuda", dtype))
        classes = {
            "llama": (LlamaConfig, LlamaForCausalLM),
            "smollm3": (SmolLM3Config, SmolLM3ForCausalLM),
            "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        }
        config, model_class = classes[kind]
        shape = config(
            vocab_size=97, hidden_size=32, intermediate_size=80, num_hidden_layers=4,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
        )  # fmt: skip
        module = model_class(shape)
        for name, value in module.named_parameters():
            if name.endswith("bias"):  # transformers starts them at 0
                torch.nn.init.normal_(value, std=0.5)
        return BaseModel.from_module(module.to("cuda", dtype))

    return build


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 8e-2)], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize("kind", ["llama", "smollm3", "qwen2", "qwen3"])
def test_graphs_equal_the_transformers_forward(cuda_model, history, kind, dtype, tolerance):
    base, text = cuda_model(kind, dtype), history()
    windows = [KVWindow(base, W_MAX, "splice", runner=r) for r in ("hf", "graph")]

    def same(results):
        expected, got = (r.logits for r in results)
        assert (got - expected).norm() <= tolerance * expected.norm()

    for pick in range(10):
        tokens = text.take(3 + pick)
        same([w.append(tokens) for w in windows])
        token = int(text.take(1)[0])
        same([w.decode(token) for w in windows])
        text.edit(pick * 5, W_MAX - text.cost())
        for window in windows:
            window.sync(text.layout(), text.vectors, text.tokens)
        same([w.last for w in windows])
    for window in windows:
        window.refresh()
    same([w.append(np.array([1])) for w in windows])


def test_auto_picks_the_graphs_on_a_gpu(cuda_model):
    window = KVWindow(cuda_model("llama", torch.bfloat16), W_MAX)
    assert "CUDA graphs" in window.describe()


def test_results_outlive_the_next_step(cuda_model):
    window = KVWindow(cuda_model("llama", torch.bfloat16), W_MAX)
    first = window.decode(3)
    kept = first.logits.clone()
    window.decode(5)
    assert torch.equal(first.logits, kept)


def test_the_nll_of_a_token_is_of_the_logits_at_its_launch():
    from megacontext.core.runtime.nll import PendingNLL

    torch.manual_seed(0)
    logits = torch.randn(3, 50_000, device="cuda")
    tokens = np.array([7, 11, 49_999], np.uint32)
    expected = torch.nn.functional.cross_entropy(
        logits.cpu(), torch.tensor(tokens.astype(np.int64)), reduction="none"
    )
    pending = PendingNLL(logits, tokens)
    logits.zero_()  # as a replayed graph writes the next ones
    np.testing.assert_allclose(pending.wait(), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_rows_ahead_are_those_of_greedy_decoding(cuda_model, history, kind):
    base = cuda_model(kind, torch.bfloat16)
    runs = []
    for ahead in (0, 4):
        text = history()
        window = KVWindow(base, W_MAX)
        window.append(text.take(30))
        logits = []
        for step in range(40):
            window.run_ahead(ahead)
            token = window.last.choice.token
            assert token == int(window.last.logits[-1].argmax())
            logits.append(window.append([token]).logits)
            text.n_tokens += 1
            if step == 20:  # what follows another text than the chosen one
                logits.append(window.append([(token + 1) % 97, 5]).logits)
        runs.append(torch.cat(logits))
    assert torch.equal(*runs)
