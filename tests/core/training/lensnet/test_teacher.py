"""Demand estimators and measured NLL, each against a plain computation with the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from megacontext.core.rng import generator
from megacontext.core.training.common.frozen_base import FrozenBase
from megacontext.core.training.lensnet import teacher
from megacontext.core.training.lensnet.dataset import window_entries
from megacontext.core.training.lensnet.teacher import (
    AttentionDemand,
    CopyDemand,
    GradientDemand,
    copied_from,
    window_nll,
)

K = 32


def test_measured_nll_is_that_of_the_plain_window(base: FrozenBase) -> None:
    tokens = torch.from_numpy(generator(0, "test-nll").integers(0, 8192, (2, 3 * K + 16)))
    level = np.zeros(3, np.int64)
    window = torch.from_numpy(window_entries(level, K, 16))
    pad_rows = torch.zeros((2, 1, 200), dtype=torch.int64)
    pad_rows[:, 0, : len(window)] = window
    lengths = torch.full((2, 1), len(window))
    measured = window_nll(base, base.embed(tokens), pad_rows, lengths, tokens[:, -16:])
    with torch.no_grad():
        logits = base.module(tokens).logits[:, -17:-1]
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, -16:].flatten(), reduction="none"
    )
    torch.testing.assert_close(measured[:, 0], expected.view(2, 16).mean(1), atol=1e-4, rtol=1e-4)


def test_attention_demand_is_the_models_own_attention(base: FrozenBase, tiny_base: Path) -> None:
    tokens = torch.from_numpy(generator(0, "test-demand").integers(0, 8192, (1, 5 * K)))
    demand, _ = AttentionDemand(base).demand(tokens, K, K)
    eager = LlamaForCausalLM.from_pretrained(tiny_base, attn_implementation="eager")
    with torch.no_grad():
        attention = torch.stack(eager(tokens, output_attentions=True).attentions)
    mass = attention[:, :, :, -K:].mean((0, 2, 3))[:, : 4 * K]
    mass[:, :4] = 0
    expected = mass.view(1, 4, K).sum(-1)
    torch.testing.assert_close(demand, expected / expected.sum(), atol=1e-4, rtol=1e-3)


def test_gradient_demand_is_what_scaling_a_blocks_values_changes(base: FrozenBase) -> None:
    tokens = torch.from_numpy(generator(1, "test-demand").integers(0, 8192, (1, 5 * K)))
    demand, hidden = GradientDemand(base).demand(tokens, K, K)
    assert not hidden.requires_grad

    def nll(block: int, factor: float) -> float:
        def scaled(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
            scale = torch.ones(out.shape[1], 1)
            scale[max(block * K, 4) : (block + 1) * K] = factor  # less the sink tokens
            return out * scale

        layers = base.module.base_model.layers
        handles = [layer.self_attn.v_proj.register_forward_hook(scaled) for layer in layers]
        with torch.no_grad():
            logits = base.logits_at(base.embed(tokens), torch.arange(4 * K - 1, 5 * K - 1)[None])
        for handle in handles:
            handle.remove()
        costs = torch.nn.functional.cross_entropy(logits[0], tokens[0, -K:], reduction="sum")
        return float(costs)

    step = 0.02
    slopes = torch.tensor([nll(b, 1 - step) - nll(b, 1 + step) for b in range(4)]).clamp(min=0)
    assert int((slopes > 0).sum()) > 0
    torch.testing.assert_close(demand[0], slopes / slopes.sum(), atol=0.02, rtol=0.05)


def test_copied_tokens_are_charged_to_the_newest_block_that_holds_their_pair(
    base: FrozenBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "_MIN_SAVED_NATS", 0.0)  # an untrained base loses little
    tokens = torch.from_numpy(generator(2, "test-copies").permutation(8192)[: 7 * K][None])
    coming = 6 * K
    tokens[0, 5:7] = tokens[0, K + 3 : K + 5]  # the pair stands in blocks 0 and 1 ...
    tokens[0, coming + 7 : coming + 9] = tokens[0, K + 3 : K + 5]
    tokens[0, coming + 20 : coming + 22] = tokens[0, K + 3 : K + 5]  # ... and comes twice
    tokens[0, coming + 12 : coming + 14] = tokens[0, 4 * K : 4 * K + 2]  # from the near text
    source, copied = copied_from(tokens, K)
    assert copied.nonzero()[:, 1].tolist() == [8, 13]
    assert source[copied].tolist() == [K + 4, 4 * K + 1]

    position = torch.arange(coming - 1, 7 * K - 1)[None]
    short = tokens[:, 4 * K :]
    full = base.logits_at(base.embed(tokens), position)
    near = base.logits_at(base.embed(short), position - 4 * K)
    answer = tokens[0, coming:]
    losses = [
        torch.nn.functional.cross_entropy(logits[0], answer, reduction="none").detach()
        for logits in (near, full)
    ]
    expected = (losses[0] - losses[1])[[8, 13]].clamp(min=0)
    assert expected.max() > 0
    demand, _ = CopyDemand(base).demand(tokens, K, K)
    assert demand[0, [0, 2, 3, 5]].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(demand[0, [1, 4]], expected / expected.sum(), atol=1e-4, rtol=1e-3)
