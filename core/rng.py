"""Counter-based randomness: every draw is a function of (seed, purpose, counters).

There is no generator state to save or to share between threads, so a resumed run draws exactly
what the unbroken run would have drawn (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011: Philox).
"""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["generator"]


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A fresh generator for one decision.

    Args:
        seed: the run's seed, 0 <= seed < 2**63.
        purpose: what the numbers are for; different purposes never share a sequence.
        counters: up to three non-negative counters, e.g. (step, round).
    """
    if len(counters) > 3:
        raise ValueError(f"at most three counters, got {len(counters)}")
    words = [0, *counters, *(0,) * (3 - len(counters))]
    key = np.array([seed, zlib.crc32(purpose.encode())], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array(words, np.uint64)))
