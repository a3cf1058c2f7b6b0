"""A decode step of one row in Triton kernels against plain PyTorch.

Needs triton and either a GPU or its interpreter (TRITON_INTERPRET=1, from the start on).
"""

import os

import numpy as np
import pytest
import torch

from megacontext.core.model import BaseModel, KVWindow

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("neither a GPU nor TRITON_INTERPRET=1", allow_module_level=True)
DTYPES = {"fp32": torch.float32}
if DEVICE == "cuda":  # the interpreter multiplies the bits of bfloat16 matrices
    DTYPES["bf16"] = torch.bfloat16

W_MAX = 300
KINDS = ["llama", "mistral", "smollm3", "qwen2", "qwen3"]


@pytest.fixture
def wide_model(tiny_module):
    """wide_model(kind, dtype): three heads of 16 share one key head; odd sizes elsewhere."""

    def build(kind, dtype):
        module = tiny_module(
            kind,
            hidden_size=48,
            head_dim=16,
            num_attention_heads=3,
            num_key_value_heads=1,
            intermediate_size=72,
            initializer_range=0.05,
        )
        return BaseModel.from_module(module.to(DEVICE, dtype))

    return build


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_row_in_kernels_equals_plain_pytorch(wide_model, kind, dtype):
    from megacontext.core.model.token_step import TokenStep
    from megacontext.core.model.triton_ops import TritonOps, Tuning

    base = wide_model(kind, dtype)
    window = KVWindow(base, W_MAX, runner="torch")
    step = TokenStep(window.runner.weights, window.cache)
    ops = TritonOps(window.runner.weights, window.cache, Tuning(early=DEVICE == "cuda"))
    rng = np.random.default_rng(0)
    for length in (5, 1, 130):  # one split of the slots, then several
        window.append(rng.integers(0, base.vocab_size, length))
        token = int(rng.integers(base.vocab_size))
        expected = window.decode(token)
        slot, order = int(window.row_slots[-1]), len(window) - 1
        before = [t.clone() for t in (window.cache.keys, window.cache.values, window.cache.birth)]

        step.send(token, slot, order, int(window.row_positions[-1]))
        step.compute(ops)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-3
        logits = expected.logits.log_softmax(-1), step.logits.log_softmax(-1)
        apart = float((logits[0].exp() * (logits[0] - logits[1])).sum())
        assert apart < tolerance  # nats
        bound = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0}
        torch.testing.assert_close(step.hidden, expected.hidden, **bound)
        after = (window.cache.keys, window.cache.values, window.cache.birth)
        for a, b in zip(before, after, strict=True):
            torch.testing.assert_close(a, b, **bound)


def test_the_choice_is_the_first_of_the_largest_and_its_nll(wide_model):
    from megacontext.core.model.triton_ops import TritonOps

    base = wide_model("llama", torch.float32)
    window = KVWindow(base, W_MAX, runner="torch")
    ops = TritonOps(window.runner.weights, window.cache)
    window.append([1])
    ops.begin(*(torch.zeros(2, dtype=torch.int64, device=DEVICE) for _ in range(3)))
    logits = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    logits[0, [2500, 4999]] = 9.0
    chosen = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    choice = torch.zeros(2, device=DEVICE)
    ops.choose(logits, chosen, choice)
    assert chosen.item() == choice[0].item() == 2500
    assert choice[1].item() == pytest.approx(-logits.log_softmax(-1)[0, 2500].item(), abs=1e-5)


def test_a_step_reads_the_token_that_the_one_before_chose(wide_model):
    from megacontext.core.model.token_step import TokenStep
    from megacontext.core.model.triton_ops import TritonOps, Tuning

    base = wide_model("llama", torch.float32)
    window = KVWindow(base, W_MAX, runner="torch")
    weights, cache = window.runner.weights, window.cache
    step, ops = TokenStep(weights, cache), TritonOps(weights, cache, Tuning(early=False))
    window.append([1, 2, 3])
    likeliest = int(window.last.logits[-1].argmax())
    expected = window.decode(likeliest)
    step.chosen.fill_(likeliest)
    step.send(None, int(window.row_slots[-1]), 3, 3)
    step.compute(ops)
    torch.testing.assert_close(step.logits, expected.logits, atol=1e-5, rtol=1e-4)
    assert step.chosen.item() == int(expected.logits.argmax())
