"""Random windows of the text in a set of shards."""

from __future__ import annotations

import numpy as np

from megacontext.core.data.shards import ShardSet

__all__ = ["TokenStreams"]

Rng = np.random.Generator


class TokenStreams:
    """Random windows of real text by domain; a document is drawn in proportion to its length."""

    def __init__(self, shards: ShardSet) -> None:
        self._documents = shards.streams
        self._ends = {d: np.cumsum([len(t) for t in docs]) for d, docs in shards.streams.items()}
        self.domains = sorted(shards.streams)

    def window(self, rng: Rng, domain: str, length: int) -> np.ndarray:
        """``length`` contiguous tokens; a short document is continued by the next ones."""
        ends, documents = self._ends[domain], self._documents[domain]
        index = int(np.searchsorted(ends, int(rng.integers(int(ends[-1]))), side="right"))
        document = documents[index]
        start = int(rng.integers(max(1, len(document) - length + 1)))
        parts = [document[start : start + length]]
        missing = length - len(parts[0])
        while missing > 0:
            index = (index + 1) % len(documents)
            parts.append(documents[index][:missing])
            missing -= len(parts[-1])
        return np.concatenate(parts) if len(parts) > 1 else parts[0]
