"""Muon orthogonalizes, AdamW equals torch's, and the state survives safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from megacontext.core.training.loop.optimizers import Optimizer, OptimizerConfig, orthogonalize
from megacontext.traces.errors import ConfigError


@pytest.mark.parametrize("shape", [(3, 8, 32), (3, 32, 8), (2, 16, 16)])
def test_orthogonalized_updates_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    source = torch.Generator().manual_seed(0)
    result = orthogonalize(torch.randn(shape, generator=source) * 37)
    values = torch.linalg.svdvals(result)
    assert float(values.min()) > 0.4
    assert float(values.max()) < 1.35


def test_orthogonalizing_keeps_the_singular_directions() -> None:
    source = torch.Generator().manual_seed(0)
    matrix = torch.randn((1, 12, 20), generator=source)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.mT @ orthogonalize(matrix, steps=5) @ vh.mT
    off = turned - torch.diag_embed(turned.diagonal(dim1=-2, dim2=-1))
    assert float(off.abs().max()) < 1e-3


def _net() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))


def _train(model: nn.Module, optimizer: Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        source = torch.Generator().manual_seed(step)
        x = torch.randn((32, 6), generator=source)
        loss = (model(x) - x[:, :3].square()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(1.0)
        losses.append(loss.item())
    return losses


def test_adamw_takes_the_steps_of_torch() -> None:
    ours, theirs = _net(), _net()
    config = OptimizerConfig(kind="adamw", adam_lr=0.01, weight_decay=0.1, clip=0.0)
    optimizer = Optimizer(ours.named_parameters(), config)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(20):
        x = torch.randn((32, 6), generator=torch.Generator().manual_seed(step))
        for model in (ours, theirs):
            model.zero_grad()
            (model(x) - x[:, :3].square()).square().mean().backward()
        optimizer.step(1.0)
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


def test_muon_trains_and_a_saved_state_continues_bit_for_bit(tmp_path: Path) -> None:
    config = OptimizerConfig(kind="muon", lr=0.05, adam_lr=0.02)
    unbroken = _net()
    losses = _train(unbroken, Optimizer(unbroken.named_parameters(), config), range(200))
    assert losses[-1] < 0.5 * losses[0]

    first = _net()
    optimizer = Optimizer(first.named_parameters(), config)
    _train(first, optimizer, range(100))
    save_file(optimizer.state(), tmp_path / "o.safetensors")
    second = _net()
    second.load_state_dict(first.state_dict())
    resumed = Optimizer(second.named_parameters(), config)
    resumed.load_state(load_file(tmp_path / "o.safetensors"), 100)
    assert _train(second, resumed, range(100, 200)) == losses[100:]


def test_clipping_bounds_the_gradient_that_is_used() -> None:
    model = _net()
    optimizer = Optimizer(model.named_parameters(), OptimizerConfig(kind="adamw", clip=0.5))
    (model(torch.ones(4, 6)) * 1000).sum().backward()
    norm = optimizer.step(1.0)
    assert float(norm) > 100
    total = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert float(total) == pytest.approx(0.5, rel=1e-3)


def test_state_of_another_kind_is_refused() -> None:
    model = _net()
    state = Optimizer(model.named_parameters(), OptimizerConfig(kind="adamw")).state()
    with pytest.raises(ConfigError, match=r"optimizer\.kind"):
        Optimizer(model.named_parameters(), OptimizerConfig(kind="muon")).load_state(state, 1)
