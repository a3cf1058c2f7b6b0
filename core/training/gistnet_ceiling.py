"""The ceiling of one vector per block: what no encoder of this form can beat.

For single blocks of held-out text one free vector is optimized directly, starting at the mean of
the block's embeddings, against the NLL of the next tokens. Scored on the tokens it was optimized
on it is an upper bound; scored on the tokens behind those it shows what carries over.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.gistnet.encoder import rms_normalized
from megacontext.core.rng import generator
from megacontext.core.training.gistnet_base import FrozenBase
from megacontext.core.training.mixture import TokenStreams

__all__ = ["one_vector_ceiling"]


def one_vector_ceiling(
    base: FrozenBase,
    streams: TokenStreams,
    *,
    rows: int = 32,
    before: int = 512,
    block_size: int = 32,
    horizon: int = 64,
    steps: int = 150,
    rate: float = 0.02,
    seed: int = 0,
) -> dict[str, float]:
    """Mean ΔNLL in nats per token against the full window, by domain.

    Args:
        rows: blocks per domain. before: raw tokens before the block, a multiple of block_size.
        horizon: tokens behind the block; the vector is optimized on the first half of them and
            on all of them in turn.
        steps, rate: of Adam, the rate in units of the embeddings' RMS.

    Returns:
        ``{domain}_{kind}`` with kinds ``delete``, ``mean``, ``fitted`` (optimized and scored on
        all of the horizon), ``first_half`` and ``second_half`` (optimized on the first half).
    """
    figures: dict[str, float] = {}
    for domain in streams.domains:
        windows = []
        for row in range(rows):
            rng = generator(seed, f"gistnet.ceiling.{domain}", row)
            windows.append(streams.window(rng, domain, before + block_size + horizon))
        tokens = torch.from_numpy(np.stack(windows).astype(np.int64)).to(base.device)
        figures.update(
            {
                f"{domain}_{k}": v
                for k, v in _one(base, tokens, before, block_size, steps, rate).items()
            }
        )
    return figures


def _one(
    base: FrozenBase, tokens: Tensor, before: int, size: int, steps: int, rate: float
) -> dict[str, float]:
    x = base.embed(tokens)
    left, block, right = x[:, :before], x[:, before : before + size], x[:, before + size :]
    answer = tokens[:, before + size :]
    horizon = answer.shape[1]
    rms = base.gist_rms()

    def nll(window: Tensor) -> Tensor:
        """[R, horizon]: the last ``horizon`` tokens of the window, each by the entry before it."""
        hidden = base.hidden(window)[:, -horizon - 1 : -1]
        logits = base.logits(hidden)
        flat = functional.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="none")
        return flat.view(answer.shape)

    start = rms_normalized(block.float().mean(1, keepdim=True))

    def with_vector(vector: Tensor) -> Tensor:
        gist = (rms_normalized(vector) * rms).to(left.dtype)
        return torch.cat((left, gist, right), dim=1)

    with torch.no_grad():
        full = nll(x)
        deleted = nll(torch.cat((left, right), dim=1)) - full
        mean = nll(with_vector(start)) - full
    figures = {"delete": float(deleted.mean()), "mean": float(mean.mean())}
    half = horizon // 2
    for name, scored in (("fitted", horizon), ("half", half)):
        vector = start.clone().requires_grad_(True)
        adam = torch.optim.Adam([vector], lr=rate, betas=(0.9, 0.99))
        for _ in range(steps):
            adam.zero_grad()
            loss = nll(with_vector(vector))[:, :scored].mean(1).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
        with torch.no_grad():
            cost = nll(with_vector(vector)) - full
        if name == "fitted":
            figures["fitted"] = float(cost.mean())
        else:
            figures["first_half"] = float(cost[:, :half].mean())
            figures["second_half"] = float(cost[:, half:].mean())
            figures["second_half_delete"] = float(deleted[:, half:].mean())
    return figures
