"""Every way of computing rows gives the same rows."""

import numpy as np
import pytest
import torch

from megacontext.core.model import BaseModel, KVWindow
from megacontext.traces.errors import ModelError

W_MAX = 64


@pytest.mark.parametrize("mode", ["exact", "splice"])
@pytest.mark.parametrize(
    "kind", ["llama", "llama3", "yarn", "mistral", "smollm3", "qwen2", "qwen3"]
)
def test_the_own_step_equals_the_transformers_forward(tiny_model, history, kind, mode):
    text = history()
    windows = [KVWindow(tiny_model(kind), W_MAX, mode, runner=r) for r in ("hf", "torch")]

    def same(results):
        for name in ("logits", "hidden"):
            a, b = (getattr(r, name) for r in results)
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)

    for pick in range(12):
        tokens = text.take(3)
        same([w.append(tokens) for w in windows])
        token = int(text.take(1)[0])
        same([w.decode(token) for w in windows])
        text.edit(pick * 7, W_MAX - text.cost())
        for window in windows:
            window.sync(text.layout(), text.vectors, text.tokens)
        same([w.last for w in windows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "kind", ["llama", "llama3", "yarn", "mistral", "smollm3", "qwen2", "qwen3"]
)
def test_plain_own_and_fused_rows_give_the_same_logits(tiny_module, history, kind, dtype):
    """By the relative error in float32, by KL in nats in bfloat16, whose rounding each path does
    in its own order."""
    torch.manual_seed(0)
    base = BaseModel.from_module(tiny_module(kind, initializer_range=0.05).to(dtype))
    text = history()
    windows = {
        name: KVWindow(base, W_MAX, runner=runner)
        for name, runner in (("plain", "hf"), ("own", "torch"), ("fused", "torch"))
    }
    tokens = text.take(24)
    for window in windows.values():
        window.append(tokens)
    worst = dict.fromkeys(windows, 0.0)
    for pick in range(8):
        text.edit(pick * 7, W_MAX - text.cost() - 4)
        logits = {}
        for name, window in windows.items():
            window.sync(text.layout(), text.vectors, text.tokens, fuse=True)
            if name != "fused":
                window.finish()
        token = text.take(1)
        for name, window in windows.items():
            logits[name] = window.append(token).logits[-1].double()
        expected = logits["plain"]
        for name, got in logits.items():
            if dtype == torch.float32:
                apart = float((got - expected).norm() / expected.norm())
            else:
                log_p, log_q = expected.log_softmax(-1), got.log_softmax(-1)
                apart = float((log_p.exp() * (log_p - log_q)).sum())
            worst[name] = max(worst[name], apart)
    assert max(worst.values()) < (1e-5 if dtype == torch.float32 else 1e-3), worst


def test_cuda_graphs_need_a_gpu_and_auto_falls_back(tiny_model):
    assert "plain PyTorch" in KVWindow(tiny_model("llama"), W_MAX).describe()
    described = KVWindow(tiny_model("gpt2"), W_MAX).describe()
    assert "transformers forward of GPT2LMHeadModel" in described
    assert "kv exact" in described
    assert "runs in kv mode exact" in described


def test_wrapped_linear_layers_go_through_the_transformers_forward(tiny_module):
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    module = tiny_module("llama")
    wrapped = Doubled(32, 32, bias=False)
    module.model.layers[1].self_attn.q_proj = wrapped
    window = KVWindow(BaseModel.from_module(module), W_MAX)
    assert "transformers forward" in window.describe()
    with pytest.raises(ModelError, match="runner is 'torch' but its linear layers are wrapped"):
        KVWindow(BaseModel.from_module(module), W_MAX, runner="torch")


def test_a_bias_that_the_own_step_does_not_add_is_refused_by_name(tiny_module):
    module = tiny_module("llama")
    module.model.layers[0].mlp.up_proj = torch.nn.Linear(32, 48)
    with pytest.raises(ModelError, match="runner is 'torch' but its layer up_proj has a bias"):
        KVWindow(BaseModel.from_module(module), W_MAX, runner="torch")


def test_fusing_the_weights_changes_no_parameter(tiny_module):
    torch.manual_seed(1)
    module = tiny_module("qwen3")
    before = {name: p.clone() for name, p in module.named_parameters()}
    base = BaseModel.from_module(module)
    for _ in range(2):  # a second window shares the first one's fused weights
        window = KVWindow(base, W_MAX, runner="torch")
        window.append(np.arange(10))
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    attention = module.model.layers[0].self_attn
    storage = attention.q_proj.weight.untyped_storage().data_ptr()
    assert attention.v_proj.weight.untyped_storage().data_ptr() == storage


def test_the_base_model_is_frozen(tiny_module):
    module = tiny_module("llama").train()
    base = BaseModel.from_module(module)
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())
    assert base.embed([1, 2]).requires_grad is False


@pytest.mark.parametrize("kind", ["llama", "smollm3", "gpt2"])
def test_attention_mass_is_what_the_model_pays_to_each_entry(tiny_model, history, kind):
    base, text = tiny_model(kind), history()
    window = KVWindow(base, W_MAX, "exact")
    window.append(text.take(23))
    text.edit(1, 0)
    text.edit(3, 0)
    window.sync(text.layout(), text.vectors, text.tokens)
    before = {n: getattr(window.cache, n).clone() for n in ("keys", "values", "birth")}
    got = window.attention_mass(text.layout(), queries=6)

    base.config._attn_implementation = "eager"
    x = text.inputs(base)
    positions = torch.from_numpy(window.row_positions.copy())
    mask = torch.zeros(len(x), len(x)).masked_fill(torch.ones(len(x), len(x)).triu(1) > 0, -1e9)
    out = base.module(
        inputs_embeds=x[None], position_ids=positions[None], attention_mask=mask[None, None],
        output_attentions=True, use_cache=False,
    )  # fmt: skip
    base.config._attn_implementation = "sdpa"
    rows = torch.stack(out.attentions)[:, 0, :, -6:].mean(dim=(1, 2))
    costs = text.layout().entry_costs()
    expected = torch.stack([p.sum(-1) for p in rows[:, : costs.sum()].split(costs.tolist(), -1)], 1)
    torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-5, rtol=1e-4)
    for name, tensor in before.items():
        assert torch.equal(tensor, getattr(window.cache, name)), name
