"""Whether decoding under CUDA graphs gives a model's own logits on this machine.

The kernels meet GPUs, drivers and compilers that nobody has tried them on. So a model that is
loaded onto a GPU decodes a few tokens both ways, also ahead of the host. Where they differ, or
where the kernels do not run at all, its rows are computed in a slower way.
"""

from __future__ import annotations

import numpy as np
import torch

from megacontext.core.model.base import BaseModel
from megacontext.core.model.decoder import no_graphs
from megacontext.core.model.llama_weights import unsupported
from megacontext.core.model.parity import FOREIGN, KL_LIMIT, divergence
from megacontext.core.model.window import KVWindow

__all__ = ["check_graphs"]

_TEXT = 48
_DECODED = 12
_AHEAD = 4


@torch.no_grad()
def check_graphs(base: BaseModel) -> str | None:
    """Why the model is not decoded under CUDA graphs here, as one clause.

    None where it may be, and where it never is: on a CPU, or an architecture of its own.
    """
    if unsupported(base) is not None or no_graphs(base) is not None:
        return None
    rng = np.random.default_rng(0)
    text = rng.integers(base.vocab_size // 8, base.vocab_size, _TEXT)
    try:
        plain, fast = (
            KVWindow(base, _TEXT + _DECODED + _AHEAD, runner=runner) for runner in ("hf", "graph")
        )
        apart = [divergence(fast.append(text).logits, plain.append(text).logits)]

        # Greedy tokens, of which the kernels have some ready before they are asked for.
        for number in range(_DECODED):
            if number % _AHEAD == 0:
                fast.run_ahead(_AHEAD)
            assert plain.last is not None
            token = int(plain.last.logits[-1].argmax())
            apart.append(divergence(fast.decode(token).logits, plain.decode(token).logits))
    except FOREIGN as error:
        return f"decoding under CUDA graphs fails here ({str(error).splitlines()[0]:.80})"
    wrong = [nats for nats in apart if not nats <= KL_LIMIT[base.dtype]]  # NaN is wrong, too
    if wrong:
        return f"logits under CUDA graphs are {wrong[0]:.2g} nats from the model's own here"
    return None
