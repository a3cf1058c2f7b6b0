"""Low-rank changes beside the frozen linear layers of a base model, which can be switched off.

The changes hang on forward hooks: the base keeps its modules, its names and its weights, and with
the changes off it is the original to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.core.model.adapter import read_adapter, write_adapter
from megacontext.core.training.common.frozen_base import FrozenBase
from megacontext.traces.errors import ConfigError

__all__ = ["LoraLayers", "LoraShape"]


@dataclass(frozen=True)
class LoraShape:
    """Sizes of the adapter.

    Attributes:
        rank: r of every pair. alpha: the change is scaled by alpha / r.
        targets: last name parts of the linear layers that get a pair.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank: {self.rank} is below 1; use a positive number.")
        if self.alpha <= 0:
            raise ConfigError(f"lora.alpha: {self.alpha:g} is not above 0.")


class LoraLayers(nn.Module):
    """All pairs of one base model; its parameters are what is trained, in float32.

    A starts from a seeded uniform draw, B from zero: an untrained adapter changes nothing.
    """

    def __init__(self, base: FrozenBase, shape: LoraShape, seed: int) -> None:
        super().__init__()
        self.shape = shape
        self._on = True
        source = torch.Generator().manual_seed(seed)
        self._pairs = nn.ModuleDict()
        for target in shape.targets:
            if not any(name.split(".")[-1] == target for name, _ in _linears(base.module)):
                raise ConfigError(
                    f"lora.targets: the base model has no linear layer {target!r}; name some of "
                    f"{', '.join(sorted({n.split('.')[-1] for n, _ in _linears(base.module)}))}."
                )
        for name, layer in _linears(base.module):
            if name.split(".")[-1] in shape.targets:
                pair = _Pair(layer, shape.rank, source)
                self._pairs[name.replace(".", "/")] = pair
                layer.register_forward_hook(self._hook(pair))
        self.to(base.device)

    def _hook(self, pair: _Pair) -> Any:
        scale = self.shape.alpha / self.shape.rank

        def changed(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not self._on:
                return output
            change: Tensor = pair(inputs[0].float())
            return output + (change * scale).to(output.dtype)

        return changed

    @contextmanager
    def off(self) -> Iterator[None]:
        """The original base model inside the block."""
        before, self._on = self._on, False
        try:
            yield
        finally:
            self._on = before

    @torch.no_grad()
    def start_from(self, folder: Path) -> None:
        """Take the weights of a saved adapter of the same layers, rank and scale.

        Raises:
            ModelError: the folder holds no readable adapter.
            ConfigError: an adapter of other layers, rank or alpha.
        """
        adapter = read_adapter(folder)
        pairs = {name.replace(".", "/"): pair for name, pair in adapter.pairs.items()}
        scale = self.shape.alpha / self.shape.rank
        rank = next(iter(adapter.pairs.values()))[0].shape[0]
        if pairs.keys() != set(self._pairs) or rank != self.shape.rank or adapter.scale != scale:
            raise ConfigError(
                f"lora: {folder} holds an adapter of rank {rank} and alpha {adapter.scale * rank:g}"
                f" on {len(pairs)} layers, and lora.rank {self.shape.rank}, lora.alpha "
                f"{self.shape.alpha:g} and lora.targets give one on {len(self._pairs)}; set them "
                "to those of the adapter."
            )
        for name, pair in self._pairs.items():
            assert isinstance(pair, _Pair)
            down, up = pairs[name]
            pair.down.copy_(down)
            pair.up.copy_(up)

    def save(self, folder: Path, base: FrozenBase) -> None:
        """Write the adapter in peft's format."""
        pairs = {
            name.replace("/", "."): (pair.down.detach(), pair.up.detach())
            for name, pair in self._pairs.items()
            if isinstance(pair, _Pair)
        }
        write_adapter(
            folder,
            pairs,
            self.shape.alpha,
            base_path=base.base.name,
            embedding=base.embedding,
        )


class _Pair(nn.Module):
    """B A x for one linear layer: ``down`` A [r, in], ``up`` B [out, r]."""

    def __init__(self, layer: nn.Linear, rank: int, source: torch.Generator) -> None:
        super().__init__()
        bound = layer.in_features**-0.5
        draw = torch.rand((rank, layer.in_features), generator=source)
        self.down = nn.Parameter((draw * 2 - 1) * bound)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = functional.linear(functional.linear(x, self.down), self.up)
        return changed


def _linears(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The linear layers inside the decoder; the output head stays as it is."""
    head = module.get_output_embeddings()  # type: ignore[operator]
    return [
        (name, part)
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part is not head
    ]
