"""Held-out metrics of an adapter: its gain on mixed tilings, and its cost on raw text.

The guard is the KL in nats per token from the original to the adapted model on all-raw windows:
the change that a user of the model outside MegaContext would notice.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.rng import generator
from megacontext.core.training.common.frozen_base import FrozenBase, kl_divergence
from megacontext.core.training.lora.dataset import MixedWindowDataset, WindowMix
from megacontext.traces.errors import ConfigError, MegaContextError

__all__ = ["Guard", "GuardError", "LoraEvalConfig", "LoraEvaluator"]

Batch = dict[str, Tensor]


class GuardError(MegaContextError):
    """On raw text, the adapted model differs from the original by more than the guard's bound."""

    exit_code = 1


@dataclass(frozen=True)
class Guard:
    """How far the adapted model may diverge from the original one on all-raw windows.

    Attributes:
        bound: KL in nats per token above which no checkpoint is the best or exported.
        stop: KL above which training stops; the checkpoints before it stay.
        weight: of the same KL in the training loss; 0 leaves it to the bound.
        rows, length: held-out windows per domain at each evaluation, and their tokens.
    """

    bound: float = 0.02
    stop: float = 0.2
    weight: float = 1.0
    rows: int = 8
    length: int = 1024

    def __post_init__(self) -> None:
        if not 0 < self.bound <= self.stop:
            raise ConfigError(
                f"guard.bound: {self.bound:g} must be above 0 and at most guard.stop {self.stop:g}."
            )
        if self.weight < 0:
            raise ConfigError(f"guard.weight: {self.weight:g} is below 0.")


@dataclass(frozen=True)
class LoraEvalConfig:
    """``batches`` held-out batches of ``windows``."""

    batches: int = 8
    windows: WindowMix = field(default_factory=WindowMix)


class LoraEvaluator:
    """Fixed held-out windows and tilings.

    ``mixed`` maps a batch to per-token KL and NLL of the mixed window against the full raw one,
    with the adapter as it stands; ``disabled`` switches it off.
    """

    names = (
        "guard_kl",
        "guard_kl_max",
        "mixed_kl",
        "mixed_kl_off",
        "mixed_dnll",
        "mixed_dnll_off",
        "score",
    )

    def __init__(
        self,
        guard: Guard,
        batches: int,
        base: FrozenBase,
        streams: TokenStreams,
        rows: MixedWindowDataset,
    ) -> None:
        self._guard, self._batches, self._base, self._rows = guard, batches, base, rows
        windows = []
        for domain in streams.domains:
            for row in range(guard.rows):
                rng = generator(0, f"lora.guard.{domain}", row)
                windows.append(streams.window(rng, domain, guard.length).astype(np.int64))
        self._windows = torch.from_numpy(np.stack(windows))

    @torch.no_grad()
    def evaluate(
        self,
        mixed: Callable[[Batch], tuple[Tensor, Tensor]],
        disabled: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, float]:
        """All figures; without ``score`` where the guard is beyond its bound.

        Raises:
            GuardError: the guard is beyond ``guard.stop``.
        """
        metrics = self._plain(disabled)
        if metrics["guard_kl"] > self._guard.stop:
            raise GuardError(
                f"guard.stop: KL to the original base on raw text is {metrics['guard_kl']:.3g} "
                f"nats, above {self._guard.stop:g}; lower the learning rate or raise guard.weight."
            )
        for name, context in (("", None), ("_off", disabled)):
            scores = self._mixed(mixed, context)
            metrics[f"mixed_kl{name}"], metrics[f"mixed_dnll{name}"] = scores
        if metrics["guard_kl"] <= self._guard.bound:
            metrics["score"] = metrics["mixed_kl"]
        return metrics

    def _plain(self, disabled: Callable[[], AbstractContextManager[None]]) -> dict[str, float]:
        means = []
        for window in self._windows:
            x = self._base.embed(window[None].to(self._base.device))
            with disabled():
                teacher = self._base.logits(self._base.hidden(x))
            student = self._base.logits(self._base.hidden(x))
            means.append(float(kl_divergence(teacher, student).mean()))
        return {"guard_kl": float(np.mean(means)), "guard_kl_max": float(np.max(means))}

    def _mixed(
        self,
        mixed: Callable[[Batch], tuple[Tensor, Tensor]],
        context: Callable[[], AbstractContextManager[None]] | None,
    ) -> tuple[float, float]:
        kl, dnll = [], []
        for number in range(self._batches):
            batch = {k: v[0].to(self._base.device) for k, v in self._rows[number].items()}
            if context is None:
                kl_and_dnll = mixed(batch)
            else:
                with context():
                    kl_and_dnll = mixed(batch)
            kl.append(float(kl_and_dnll[0].mean()))
            dnll.append(float(kl_and_dnll[1].mean()))
        return float(np.mean(kl)), float(np.mean(dnll))
