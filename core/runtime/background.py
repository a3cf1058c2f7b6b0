"""A second core for what does not wait for the model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from megacontext.core.cpu import usable_cores
from megacontext.core.model import BaseModel

__all__ = ["second_core"]


def second_core(base: BaseModel) -> ThreadPoolExecutor | None:
    """One thread to compute beside the model; None on a GPU, whose work queues up all the same,
    and where the model's threads take every core that this process may use."""
    if base.device.type != "cpu" or usable_cores() <= torch.get_num_threads():
        return None
    return ThreadPoolExecutor(1, "aside")
