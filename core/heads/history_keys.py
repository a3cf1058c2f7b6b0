"""The keys of one history as tensors on the model's device."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from megacontext.core.heads.encoder import HeadEncoder
from megacontext.core.heads.store import KeyStore
from megacontext.core.tree.spec import U32, Progress

__all__ = ["HistoryKeys"]

Tokens = Callable[[int, int], U32]
"""Token ids [start, stop) of a history."""


_CHUNKS_OF_A_PASS = 8
"""Chunks that a GPU encodes at once while text comes in; a question encodes the rest."""


def _nothing_committed() -> int:
    return 0


@dataclass
class HistoryKeys:
    """A key store beside its copy on the GPU; grows with the history.

    Attributes:
        encoder: reads the model.
        store: the keys.
        committed: how many tokens of the history survive a crash; keys are committed up to there.
    """

    encoder: HeadEncoder
    store: KeyStore
    committed: Callable[[], int] = _nothing_committed
    _copy: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)

    def follow(self, tokens: Tokens, n_tokens: int, progress: Progress | None = None) -> None:
        """Encode what the history of ``n_tokens`` has in whole chunks; commit if it is due."""
        self.store.follow(tokens, n_tokens, self.committed(), progress)

    def follow_along(self, tokens: Tokens, n_tokens: int) -> None:
        """As :meth:`follow`, once a pass over what waits is worth its launches.

        On a CPU that is every whole chunk; on a GPU short passes cost as much as long ones.
        """
        chunks = 1 if self.encoder.device.type == "cpu" else _CHUNKS_OF_A_PASS
        if n_tokens - self.store.count >= chunks * self.store.chunk or n_tokens < self.store.count:
            self.follow(tokens, n_tokens)

    def pieces(self, tokens: Tokens, n_tokens: int, whole: int) -> list[Tensor]:
        """Keys of the first ``whole`` of ``n_tokens`` tokens, int8 [t, H * D] in two pieces."""
        self.follow(tokens, n_tokens)
        stored = min(self.store.count, whole)
        latest = torch.from_numpy(np.array(self.store.newest(tokens, n_tokens)))
        on_cpu = self.encoder.device.type == "cpu"
        old = _as_tensor(self.store.view(0, stored)) if on_cpu else self._on_device(stored)
        return [old, latest[: whole - stored].to(self.encoder.device)]

    def close(self) -> None:
        """Let go of the file, if there is one."""
        self.store.close()

    def _on_device(self, stored: int) -> Tensor:
        """The stored keys on the GPU; only what is new since the last call is copied."""
        copy = self._copy[:stored]
        if len(copy) < stored:
            fresh = _as_tensor(self.store.view(len(copy), stored)).to(self.encoder.device)
            copy = torch.cat((copy, fresh)) if len(copy) else fresh
        self._copy = copy
        return copy


def _as_tensor(rows: np.ndarray) -> Tensor:
    """A tensor over stored rows, which nobody writes to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the memory is read-only
        return torch.from_numpy(rows)
