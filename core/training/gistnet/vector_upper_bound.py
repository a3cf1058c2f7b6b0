"""An upper bound of what one vector per block can do, which no encoder of this form can exceed.

For each held-out block one free vector is optimized directly, from the mean of the block's
embeddings, to minimize the NLL of the tokens after it. Its score on the tokens that it was
optimized on is an upper bound; its score on later tokens shows what generalizes. A vector that is
optimized to predict a repetition of the block sees the block alone, as an encoder does.
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
    distance: int = 0,
    horizon: int = 64,
    steps: int = 150,
    rate: float = 0.02,
    seed: int = 0,
) -> dict[str, float]:
    """Mean ΔNLL in nats per token against the full window, by domain.

    Args:
        rows: blocks per domain. before: raw tokens before the block, a multiple of block_size.
        distance: raw tokens between the block and the scored ones.
        horizon: scored tokens; the vector is optimized on the first half of them and on all of
            them in turn.
        steps, rate: of Adam, the rate in units of the embeddings' RMS.

    Returns:
        ``{domain}_{kind}`` with kinds ``delete``, ``mean``, ``fitted`` (optimized and scored on
        all of the horizon), ``first_half`` and ``second_half`` (optimized on the first half), and
        ``repeated`` (optimized by the KL to the full window on a repetition of the block instead
        of the horizon, then scored on the horizon).
    """
    metrics: dict[str, float] = {}
    length = before + block_size + distance + horizon
    for domain in streams.domains:
        windows = []
        for row in range(rows):
            rng = generator(seed, f"gistnet.ceiling.{domain}", row)
            windows.append(streams.window(rng, domain, length))
        tokens = torch.from_numpy(np.stack(windows).astype(np.int64)).to(base.device)
        delta_nll = _optimize_and_score(base, tokens, before, block_size, horizon, steps, rate)
        metrics.update({f"{domain}_{kind}": value for kind, value in delta_nll.items()})
    return metrics


def _optimize_and_score(
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

    def with_vector(vector: Tensor, after: Tensor = right) -> Tensor:
        gist = (rms_normalized(vector) * rms).to(left.dtype)
        return torch.cat((left, gist, after), dim=1)

    repeated_block = torch.cat((right[:, : right.shape[1] - horizon], block), dim=1)
    with torch.no_grad():
        full = nll(x)
        removed = nll(torch.cat((left, right), dim=1)) - full
        mean = nll(with_vector(start)) - full
        full_logits = logits(torch.cat((left, block, repeated_block), dim=1), size)

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

    on_all = cost(lambda v: nll(with_vector(v)).mean(1).sum())
    first = cost(lambda v: nll(with_vector(v))[:, :half].mean(1).sum())
    repeated = cost(
        lambda v: (
            kl_divergence(full_logits, logits(with_vector(v, repeated_block), size)).mean(1).sum()
        )
    )
    return {
        "delete": float(removed.mean()),
        "mean": float(mean.mean()),
        "fitted": float(on_all.mean()),
        "first_half": float(first[:, :half].mean()),
        "second_half": float(first[:, half:].mean()),
        "second_half_delete": float(removed[:, half:].mean()),
        "repeated": float(repeated.mean()),
    }
