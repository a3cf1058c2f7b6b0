"""How rare each token is in the training text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["inverse_document_frequency"]


def inverse_document_frequency(
    streams: Mapping[str, list[np.ndarray]], vocab_size: int, block: int
) -> np.ndarray:
    """BM25's inverse document frequency of each token, blocks as documents: float32[vocab]."""
    seen = np.zeros(vocab_size, np.int64)
    total = 0
    for documents in streams.values():
        for tokens in documents:
            part = tokens[: min(len(tokens), 200_000) // block * block].reshape(-1, block)
            ordered = np.sort(part, axis=1)
            first = np.ones(ordered.shape, bool)
            first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
            seen += np.bincount(ordered[first], minlength=vocab_size)
            total += len(part)
    return np.log1p((total - seen + 0.5) / (seen + 0.5)).astype(np.float32)
