"""The likeliest next token, on its way from the device to the host."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Choice"]


class Choice:
    """A token and its NLL, copied behind the step that chose it.

    The host waits for this copy alone and not for what the device was given afterwards.

    Args:
        packed: float32 [2], the token and its NLL in nats; may be overwritten afterwards.
        number: the runner's count of its choices; the newest one is on the device.
    """

    def __init__(self, packed: Tensor, number: int) -> None:
        self.number = number
        self._copied: torch.cuda.Event | None = None
        if packed.is_cuda:
            self._host = torch.empty(2, pin_memory=True)
            self._host.copy_(packed, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        else:
            self._host = packed.clone()

    @cached_property
    def _values(self) -> tuple[int, float]:
        if self._copied is not None:
            self._copied.synchronize()
        token, nll = self._host.tolist()
        return int(token), nll

    @property
    def token(self) -> int:
        """The likeliest token; of equals the lowest id. Waits for the device."""
        return self._values[0]

    @property
    def nll(self) -> float:
        """NLL of :attr:`token` in nats."""
        return self._values[1]
