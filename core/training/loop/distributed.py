"""One process or many: the same code under plain ``python`` and under ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset

from megacontext.traces.errors import ConfigError

__all__ = ["DistributedContext", "RankDataset", "join_world"]


@dataclass(frozen=True)
class DistributedContext:
    """This process among its peers; with ``size == 1`` every method is free."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in one collective."""
        if self.size == 1:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        offset = 0
        for tensor in tensors:
            tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
            offset += tensor.numel()

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over all processes; each sees another part of the batch."""
        if self.size > 1:
            value = value.detach().clone().to(torch.float64)
            dist.all_reduce(value)
            value /= self.size
        return float(value)

    def broadcast(self, value: float) -> float:
        """The main process's ``value`` on every process (clocks differ; decisions must not)."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared.item())

    def shutdown(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()


class RankDataset(Dataset[dict[str, Tensor]]):
    """This process's share of every batch of ``whole``, whose tensors are [accumulation, R, ...].

    All processes make the same R rows and keep R / size of them, so that many processes train on
    what one would have seen.
    """

    def __init__(
        self, whole: Dataset[dict[str, Tensor]], world: DistributedContext, rows: int, key: str
    ) -> None:
        if rows % world.size:
            raise ConfigError(
                f"{key}: {rows} rows cannot be shared by {world.size} processes; choose a multiple."
            )
        self._whole = whole
        count = rows // world.size
        self._part = slice(world.rank * count, (world.rank + 1) * count)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return {name: value[:, self._part] for name, value in self._whole[step].items()}


def join_world(device: str = "auto") -> DistributedContext:
    """Read torchrun's environment and pick this process's device.

    Raises:
        ConfigError: not ``auto``, ``cpu`` or ``cuda``, or ``cuda`` without a GPU.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device: {device!r} is unknown; use auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: 'cuda' was asked for and torch finds no GPU; use cpu or auto.")
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    position = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if use_cuda
        else torch.device("cpu")
    )
    if use_cuda:
        torch.cuda.set_device(position)
    if size > 1:
        dist.init_process_group("nccl" if use_cuda else "gloo")
    return DistributedContext(rank, size, position)
