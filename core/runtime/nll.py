"""Negative log-likelihood of tokens, and delta NLL against the full history."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from megacontext.core.config import TraceConfig
from megacontext.core.model.base import BaseModel, Forward
from megacontext.traces.errors import ModelError

__all__ = ["DeltaNLL", "PendingNLL", "check_nll", "first_nll", "full_history_nll", "token_nll"]


def token_nll(logits_TV: Tensor, tokens: np.ndarray) -> np.ndarray:
    """NLL in nats of each token (uint32 [T]) under the logits [T, V] that came before it."""
    return PendingNLL(logits_TV, tokens).wait()


class PendingNLL:
    """NLL of tokens on its way to the host.

    What a GPU is given afterwards does not delay it: the host waits for this copy alone.

    Args:
        logits_TV: [T, V], those that came before each token.
        tokens: uint32 [T].
    """

    def __init__(self, logits_TV: Tensor, tokens: np.ndarray) -> None:
        target = torch.from_numpy(tokens.astype(np.int64)).to(logits_TV.device, non_blocking=True)
        loss = torch.nn.functional.cross_entropy(logits_TV.float(), target, reduction="none")
        self._copied: torch.cuda.Event | None = None
        if loss.is_cuda:
            self._nll = torch.empty(loss.shape, dtype=torch.float32, pin_memory=True)
            self._nll.copy_(loss, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        else:
            self._nll = loss

    def wait(self) -> np.ndarray:
        """NLL float32 [T] in nats."""
        if self._copied is not None:
            self._copied.synchronize()
        nll: np.ndarray = self._nll.numpy().astype(np.float32)
        return nll


def first_nll(before: Forward, token: np.ndarray) -> Callable[[], float]:
    """Begins to compute the NLL in nats of ``token`` (uint32 [1]) behind the last row of
    ``before``; a call of the result waits for it."""
    choice = before.choice
    if choice is not None and choice.token == int(token[0]):
        return lambda: choice.nll
    pending = PendingNLL(before.logits[-1:], token)
    return lambda: float(pending.wait()[0])


def check_nll(base: BaseModel, nll: np.ndarray, position: int) -> None:
    """Refuse NaN, which means "not measured" in a trace.

    Args:
        nll: float32 [t] of the tokens from ``position`` on.

    Raises:
        ModelError: the model's logits are not finite.
    """
    if np.isnan(nll).any():
        raise ModelError(
            f"model '{base.name}' gives logits that are not finite (NaN) at token {position}; its "
            f"weights are damaged or {str(base.dtype).removeprefix('torch.')} is too small for "
            "it, set model.dtype to float32."
        )


@torch.no_grad()
def full_history_nll(base: BaseModel, tokens: np.ndarray, last: int) -> np.ndarray:
    """NLL of the ``last`` newest tokens with the whole history (uint32 [N]) in the window.

    Needs N <= ``base.window``; the first token of a history has no NLL, so ``last`` < N.
    """
    ids = torch.from_numpy(tokens.astype(np.int64))[None].to(base.device)
    logits = base.module(input_ids=ids, logits_to_keep=last + 1, use_cache=False).logits
    return token_nll(logits[0, :-1], tokens[-last:])


class DeltaNLL:
    """Measures delta NLL every so many refocuses, as long as the full history fits the window.

    Delta NLL at H is the mean NLL of the newest H tokens as the session saw them, minus their
    mean NLL with the full history before them; both score the next token at the same places.
    """

    def __init__(
        self, base: BaseModel, history: Callable[[int, int], np.ndarray], config: TraceConfig
    ) -> None:
        self._base = base
        self._history = history
        self._every = config.delta_nll_every
        self._horizon = config.horizon
        self._seen = np.empty(0, np.float32)
        self._refocuses = 0

    def observe(self, nll: np.ndarray) -> None:
        """NLL float32 [t] of tokens as the model saw them."""
        self._seen = np.concatenate([self._seen, nll])[-self._horizon :]

    def at_refocus(self, n_tokens: int) -> float | None:
        """Delta NLL over the newest H tokens in nats per token, where it is due and possible."""
        self._refocuses += 1
        due = self._every and self._refocuses % self._every == 0
        if not due or not self._horizon < n_tokens <= self._base.window:
            return None
        if len(self._seen) < self._horizon or np.isnan(self._seen).any():
            return None
        full = full_history_nll(self._base, self._history(0, n_tokens), self._horizon)
        return float(self._seen.mean() - full.mean())
