"""A stream whose tokens depend on how often the history was cut off: stale bytes are never right
by luck."""

from __future__ import annotations

import numpy as np

from megacontext.simulator.streams.base import Stream, StreamSpec, Truth

__all__ = ["Lives"]

_STEP = 1009
"""Added to every token of a new life; odd, so that neighbours of the vocabulary differ."""


class Lives:
    """Tokens of ``inner``, shifted from each place on at which another life began.

    What matters when, and the markers, stay those of ``inner``.
    """

    def __init__(self, inner: Stream) -> None:
        self.inner = inner
        self._begun: list[tuple[int, int]] = []  # (first token, shift), ascending
        self._count = 0
        self._truth: tuple[int, Truth] | None = None  # of so many blocks, until something collapses

    @property
    def spec(self) -> StreamSpec:
        """Of ``inner``."""
        return self.inner.spec

    def begin(self, n_tokens: int) -> None:
        """Whatever comes behind the first ``n_tokens`` tokens is another text from now on."""
        self._count += 1
        self._begun = [(at, shift) for at, shift in self._begun if at < n_tokens]
        self._begun.append((n_tokens, self._count * _STEP))

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """U32[stop - start]: the history's tokens in this life."""
        output = self.inner.tokens(start, stop)
        if not self._begun or stop <= self._begun[0][0]:
            return output
        output, vocab = output.copy(), np.uint32(self.inner.spec.vocab_size)
        ends = [at for at, _ in self._begun[1:]] + [stop]
        for (at, shift), end in zip(self._begun, ends, strict=True):
            part = slice(max(at - start, 0), max(end - start, 0))
            output[part] = (output[part] + np.uint32(shift % int(vocab))) % vocab
        return output

    def targets(self, n_blocks: int) -> Truth:
        """See :meth:`Stream.targets`."""
        if self._truth is None or self._truth[0] != n_blocks:
            self._truth = n_blocks, self.inner.targets(n_blocks)
        return self._truth[1]

    def markers(self, n_blocks: int) -> tuple[str, ...]:
        """See :meth:`Stream.markers`."""
        return self.inner.markers(n_blocks)

    def observe(self, collapsed: list[tuple[int, int]]) -> None:
        """See :meth:`Stream.observe`."""
        self._truth = None
        self.inner.observe(collapsed)
