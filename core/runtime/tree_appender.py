"""Appends the tokens of a session to its tree, with a block's gist encoded beside the model."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np

from megacontext.core.runtime.background import second_core
from megacontext.core.runtime.build import EngineParts
from megacontext.core.tree.spec import F32, U32
from megacontext.traces.errors import SourceError

__all__ = ["TreeAppender"]

EncodedBlock = tuple[F32, F32]
"""Gist F32[1, dim] and key F32[1, key_dim] of a block."""


class TreeAppender:
    """Appends tokens to the tree of ``parts`` and commits it from time to time."""

    def __init__(self, parts: EngineParts) -> None:
        self._parts = parts
        self._second_core = second_core(parts.base)
        self._commit_tokens = parts.config.tree.commit_blocks * parts.config.block_size

    def prefetch_gist(self, tokens: U32) -> Future[EncodedBlock] | None:
        """Encode the block that ``tokens`` complete while the model reads them.

        A gist needs nothing of the model, so it is the same either way. Returns None if the tokens
        complete no new block, or if no CPU core is available.
        """
        parts = self._parts
        if self._second_core is None:
            return None
        if parts.tree.n_tokens != parts.focus.working_context.n_tokens:
            return None
        block = parts.tree.closing(tokens)
        if block is None:
            return None
        return self._second_core.submit(parts.gister.encode_blocks, *block)

    def append(self, tokens: U32, gist: Future[EncodedBlock] | None) -> None:
        """Append what the tree does not hold yet; after an interruption it may be ahead.

        Args:
            tokens: uint32 [t], what follows the working context's history.
            gist: of the block that they complete, if it was prefetched.

        Raises:
            SourceError: the tree holds other tokens there.
        """
        tree, start = self._parts.tree, self._parts.focus.working_context.n_tokens
        ahead = min(tree.n_tokens - start, len(tokens))
        if ahead and not np.array_equal(tree.tokens(start, start + ahead), tokens[:ahead]):
            raise SourceError(
                f"source gives other tokens than the tree holds at token {start}; resume with the "
                "config and texts of the interrupted run, or start a new run."
            )

        # If no core was free to start it, waiting for one would take longer than computing it.
        encoded = None if gist is None or gist.cancel() else gist.result()
        if ahead < len(tokens):
            tree.append(tokens[ahead:], encoded)

    def commit_if_due(self) -> None:
        """Make the history durable if enough of it is not."""
        tree = self._parts.tree
        if tree.n_tokens - tree.committed_tokens >= self._commit_tokens:
            tree.commit()
