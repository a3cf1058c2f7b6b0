"""Computing rows against a slotted cache; the generic way, through the Hugging Face forward."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from megacontext.core.model.base import BaseModel, Forward
from megacontext.core.model.choice import Choice
from megacontext.core.model.local import row_masks
from megacontext.core.model.slotted_cache import SlottedCache, visible

__all__ = ["MAX_ROWS", "AheadRunner", "HFRunner", "RowRunner"]


class RowRunner(Protocol):
    """Computes rows of the window from ``cache.inputs`` and writes their keys and values."""

    cache: SlottedCache

    @property
    def max_rows(self) -> int:
        """Rows that one forward computes at most; bounds the mask, activations and logits."""
        ...

    def run(
        self,
        slots: NDArray[np.int64],
        orders: NDArray[np.int64],
        positions: NDArray[np.int64],
        keep: int,
    ) -> Forward:
        """Compute r rows into ``slots``; a row of order o sees every live slot with order <= o.

        The rows become live at their orders. The last ``keep`` of them get logits and hidden
        states.
        """
        ...

    def run_token(self, token: int, slot: int, order: int, position: int) -> Forward:
        """Compute one raw token as the window's newest row."""
        ...

    def describe(self) -> str:
        """One clause on how rows are computed."""
        ...


@runtime_checkable
class AheadRunner(RowRunner, Protocol):
    """Its forwards carry the choice of their last row, and it can read one before the host does."""

    def run_choice(self, choice: Choice, slot: int, order: int, position: int) -> Forward:
        """Compute the row of the token ``choice`` as the window's newest one."""
        ...

    def write_choice(self, choice: Choice, slot: int) -> None:
        """Write the embedding of the token ``choice`` to ``cache.inputs``."""
        ...


MAX_ROWS = 512
"""Rows of one forward on a CPU, whose speed no longer grows beyond it, and under CUDA graphs."""
_MAX_ROWS_CUDA = 2048
"""The transformers forward is bound by its launches below."""


class HFRunner:
    """Any architecture: the transformers forward with the slotted cache and a 4-D mask."""

    def __init__(self, base: BaseModel, cache: SlottedCache) -> None:
        self.base = base
        self.cache = cache
        self.max_rows = _MAX_ROWS_CUDA if base.device.type == "cuda" else MAX_ROWS

    def run(
        self,
        slots: NDArray[np.int64],
        orders: NDArray[np.int64],
        positions: NDArray[np.int64],
        keep: int,
    ) -> Forward:
        cache = self.cache
        at = torch.from_numpy(slots).to(cache.device)
        order = torch.from_numpy(orders).to(cache.device)
        cache.born(slots, positions)
        cache.orders[at] = order.int()
        cache.write_slots = at
        columns = cache.orders[: cache.columns]
        mask = row_masks(self.base.local, visible(columns, order), columns, order)
        places = torch.from_numpy(positions).to(cache.device)
        return self.base.forward_rows(cache.inputs[at], places, mask, cache, keep)

    def run_token(self, token: int, slot: int, order: int, position: int) -> Forward:
        self.cache.inputs[slot] = self.base.embed([token])[0]
        return self.run(np.array([slot]), np.array([order]), np.array([position]), keep=1)

    def describe(self) -> str:
        return f"transformers forward of {type(self.base.module).__name__}"
