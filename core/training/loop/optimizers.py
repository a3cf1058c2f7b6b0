"""Muon for the hidden matrices, AdamW for the rest, with one state that safetensors can hold.

Muon (Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks"): momentum,
then an approximate orthogonalization of the update by a quintic Newton-Schulz iteration. Matrices
of one shape are orthogonalized in one batch, so that a small model is not launch-bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from megacontext.traces.errors import ConfigError

__all__ = ["Optimizer", "OptimizerConfig", "orthogonalize"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Learning rates are peaks; the schedule multiplies both.

    ``kind: muon`` trains matrices inside layers by Muon at ``lr`` and everything else by AdamW at
    ``adam_lr``; ``kind: adamw`` trains everything by AdamW at ``adam_lr``.
    """

    kind: Literal["muon", "adamw"] = "muon"
    lr: float = 0.02
    adam_lr: float = 0.004
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.05
    clip: float = 1.0


def orthogonalize(updates_NRC: Tensor, steps: int = 5) -> Tensor:
    """Matrices [N, R, C] to nearby ones whose singular values lie near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = updates_NRC.bfloat16() if updates_NRC.is_cuda else updates_NRC
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    if tall:
        x = x.mT
    result: Tensor = x.to(updates_NRC.dtype)
    return result


class Optimizer:
    """Muon and AdamW over the named trainable parameters of a module.

    A parameter goes to Muon when it is a matrix and its name does not contain ``embed`` (an
    embedding's rows are no linear map) or ``head``.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig):
        self.config = config
        self.step_count = 0
        self._parameters = {name: p for name, p in parameters if p.requires_grad}
        self._groups: dict[tuple[int, ...], list[str]] = {}
        self._adam: list[str] = []
        for name, parameter in self._parameters.items():
            hidden = parameter.ndim == 2 and "embed" not in name and "head" not in name
            if config.kind == "muon" and hidden:
                self._groups.setdefault(tuple(parameter.shape), []).append(name)
            else:
                self._adam.append(name)
        # One stacked momentum per shape; per-name copies only when a checkpoint is written.
        self._momentum = {
            shape: torch.zeros((len(names), *shape), device=self._parameters[names[0]].device)
            for shape, names in self._groups.items()
        }
        self._first = {n: torch.zeros_like(self._parameters[n]) for n in self._adam}
        self._second = {n: torch.zeros_like(self._parameters[n]) for n in self._adam}

    def gradients(self) -> list[Tensor]:
        """The gradients of all parameters; one that got none is a tensor of zeros."""
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [p.grad for p in self._parameters.values() if p.grad is not None]

    def zero_grad(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, factor: float) -> Tensor:
        """One update at ``factor`` times the peak rates; returns the gradient norm before it."""
        gradients = self.gradients()
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self.config.clip > 0:
            torch._foreach_mul_(gradients, (self.config.clip / (norm + 1e-6)).clamp(max=1.0))
        self.step_count += 1
        self._step_muon(factor)
        self._step_adam(factor)
        return norm

    def _step_muon(self, factor: float) -> None:
        config = self.config
        for shape, names in self._groups.items():
            stacked = torch.stack([self._grad(name) for name in names])
            momentum = self._momentum[shape]
            momentum.lerp_(stacked, 1 - config.momentum)
            update = orthogonalize(stacked.lerp(momentum, config.momentum))
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            rate = config.lr * factor
            targets: list[Tensor] = [self._parameters[name] for name in names]
            torch._foreach_mul_(targets, 1 - rate * config.weight_decay)
            torch._foreach_add_(targets, list(update.unbind(0)), alpha=-rate * scale)

    def _step_adam(self, factor: float) -> None:
        config = self.config
        if not self._adam:
            return
        rate = config.adam_lr * factor
        targets: list[Tensor] = [self._parameters[name] for name in self._adam]
        gradients = [self._grad(name) for name in self._adam]
        first = [self._first[name] for name in self._adam]
        second = [self._second[name] for name in self._adam]

        # Moments of all parameters at once; fused calls save most of a small model's step.
        torch._foreach_lerp_(first, gradients, 1 - config.beta1)
        torch._foreach_mul_(second, config.beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - config.beta2)

        correction = (1 - config.beta2**self.step_count) ** 0.5
        scale = torch._foreach_sqrt(second)
        torch._foreach_add_(scale, 1e-8)

        # Under Muon the matrices decay in its own step.
        if config.kind == "adamw":
            matrices: list[Tensor] = [p for p in targets if p.ndim >= 2]
            if matrices:
                torch._foreach_mul_(matrices, 1 - rate * config.weight_decay)
        alpha = -rate * correction / (1 - config.beta1**self.step_count)
        torch._foreach_addcdiv_(targets, first, scale, alpha)

    def _grad(self, name: str) -> Tensor:
        gradient = self._parameters[name].grad
        assert gradient is not None, name
        return gradient

    def state(self) -> dict[str, Tensor]:
        """Flat tensors by name, ready for safetensors; the step count is the caller's."""
        state: dict[str, Tensor] = {}
        for shape, names in self._groups.items():
            for position, name in enumerate(names):
                state[f"momentum.{name}"] = self._momentum[shape][position].clone()
        for name in self._adam:
            state[f"first.{name}"] = self._first[name]
            state[f"second.{name}"] = self._second[name]
        return state

    def load_state(self, state: Mapping[str, Tensor], step_count: int) -> None:
        """Take over a state made by :meth:`state`.

        Raises:
            ConfigError: the state belongs to other parameters or another optimizer kind.
        """
        expected = self.state()
        if expected.keys() != state.keys():
            odd = sorted(expected.keys() ^ state.keys())[0]
            raise ConfigError(
                f"optimizer.kind: the checkpoint's state does not fit ({odd}); resume with the "
                "model and optimizer of the run that wrote it."
            )
        for shape, names in self._groups.items():
            for position, name in enumerate(names):
                self._momentum[shape][position].copy_(state[f"momentum.{name}"])
        for name in self._adam:
            self._first[name].copy_(state[f"first.{name}"])
            self._second[name].copy_(state[f"second.{name}"])
        self.step_count = step_count
