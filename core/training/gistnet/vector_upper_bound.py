"""The ceiling of one vector per block: what no encoder of this form can beat.

For single blocks of held-out text one free vector is optimized directly, starting at the mean of
the block's embeddings, against the NLL of the next tokens, or of tokens further on. Scored on the
tokens it was optimized on it is an upper bound; scored on the tokens behind those it shows what
carries over. A vector that was optimized to foretell the block's own text, should it come again,
knows of the block alone, as an encoder does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.gistnet.encoder import rms_normalized
from megacontext.core.rng import generator
from megacontext.core.training.common.frozen_base import FrozenBase, kl_divergence

__all__ = ["one_vector_ceiling"]


def one_vector_ceiling(
    base: FrozenBase,
    streams: TokenStreams,
    *,
    rows: int = 32,
    before: int = 512,
    block_size: int = 32,
    apart: int = 0,
    horizon: int = 64,
    steps: int = 150,
    rate: float = 0.02,
    seed: int = 0,
) -> dict[str, float]:
    """Mean ΔNLL in nats per token against the full window, by domain.

    Args:
        rows: blocks per domain. before: raw tokens before the block, a multiple of block_size.
        apart: raw tokens between the block and the scored ones.
        horizon: scored tokens; the vector is optimized on the first half of them and on all of
            them in turn.
        steps, rate: of Adam, the rate in units of the embeddings' RMS.

    Returns:
        ``{domain}_{kind}`` with kinds ``delete``, ``mean``, ``fitted`` (optimized and scored on
        all of the horizon), ``first_half`` and ``second_half`` (optimized on the first half), and
        ``repeated`` (optimized by the KL to the full window on the block's own text in the place
        of the horizon, then scored on the horizon).
    """
    metrics: dict[str, float] = {}
    length = before + block_size + apart + horizon
    for domain in streams.domains:
        windows = []
        for row in range(rows):
            rng = generator(seed, f"gistnet.ceiling.{domain}", row)
            windows.append(streams.window(rng, domain, length))
        tokens = torch.from_numpy(np.stack(windows).astype(np.int64)).to(base.device)
        found = _one(base, tokens, before, block_size, horizon, steps, rate)
        metrics.update({f"{domain}_{kind}": value for kind, value in found.items()})
    return metrics


def _one(
    base: FrozenBase,
    tokens: Tensor,
    before: int,
    size: int,
    horizon: int,
    steps: int,
    rate: float,
) -> dict[str, float]:
    x = base.embed(tokens)
    left, block, right = x[:, :before], x[:, before : before + size], x[:, before + size :]
    answer = tokens[:, -horizon:]
    half = horizon // 2

    def logits(window: Tensor, count: int) -> Tensor:
        """[R, count, V] before the last ``count`` tokens of the window."""
        return base.logits(base.hidden(window)[:, -count - 1 : -1])

    def nll(window: Tensor) -> Tensor:
        flat = functional.cross_entropy(
            logits(window, horizon).flatten(0, 1), answer.flatten(), reduction="none"
        )
        return flat.view(answer.shape)

    start = rms_normalized(block.float().mean(1, keepdim=True))
    rms = base.gist_rms()

    def with_vector(vector: Tensor, behind: Tensor = right) -> Tensor:
        gist = (rms_normalized(vector) * rms).to(left.dtype)
        return torch.cat((left, gist, behind), dim=1)

    again = torch.cat((right[:, : right.shape[1] - horizon], block), dim=1)
    with torch.no_grad():
        full = nll(x)
        removed = nll(torch.cat((left, right), dim=1)) - full
        mean = nll(with_vector(start)) - full
        known = logits(torch.cat((left, block, again), dim=1), size)

    def cost(loss: Callable[[Tensor], Tensor]) -> Tensor:
        """ΔNLL [R, horizon] of the vectors that make ``loss``, summed over rows, small."""
        vector = start.clone().requires_grad_(True)
        adam = torch.optim.Adam([vector], lr=rate, betas=(0.9, 0.99))
        for _ in range(steps):
            adam.zero_grad()
            loss(vector).backward()  # type: ignore[no-untyped-call]
            adam.step()
        with torch.no_grad():
            return nll(with_vector(vector)) - full

    fitted = cost(lambda v: nll(with_vector(v)).mean(1).sum())
    first = cost(lambda v: nll(with_vector(v))[:, :half].mean(1).sum())
    repeated = cost(
        lambda v: kl_divergence(known, logits(with_vector(v, again), size)).mean(1).sum()
    )
    return {
        "delete": float(removed.mean()),
        "mean": float(mean.mean()),
        "fitted": float(fitted.mean()),
        "first_half": float(first[:, :half].mean()),
        "second_half": float(first[:, half:].mean()),
        "second_half_delete": float(removed[:, half:].mean()),
        "repeated": float(repeated.mean()),
    }
