"""A KV window that can be held back: nothing is computed until somebody reads it."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import ArrayLike

from megacontext.core.model import KVWindow
from megacontext.core.model.base import Forward
from megacontext.core.model.layout import Layout
from megacontext.core.model.window import SyncStats, TokenSource, VectorSource
from megacontext.core.tree import Tree

__all__ = ["HeldWindow", "OtherGists"]


class OtherGists:
    """Gist vectors of another tree over the same tokens, e.g. mean-pooled ones."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def follow(self, layout: Layout, tokens: TokenSource) -> VectorSource:
        """The vectors' source once the tree has read what ``layout`` covers."""
        known = self._tree.n_tokens
        if layout.n_tokens > known:
            self._tree.append(tokens(known, layout.n_tokens))  # type: ignore[arg-type]
        return self._tree.gist_rows


class HeldWindow(KVWindow):
    """A :class:`KVWindow` that, while ``held``, only takes note that the history grew.

    Held, ``append`` answers with NaN logits and ``last`` stays None. Once ``held`` is False, the
    next ``sync`` builds the whole window in one go.

    Attributes:
        held: see above.
        gists: vectors to show instead of the session's own, or None.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.held = False
        self.gists: OtherGists | None = None

    def start_over(self, w_max: int) -> None:
        """Empty, not held, with the session's own gists, and a budget of ``w_max`` rows.

        One window serves all budgets up to its slots: on a GPU each new one captures its graphs.
        """
        self.w_max = w_max
        self.reset()
        self.held = False
        self.gists = None

    def rewind(self, n_tokens: int) -> None:
        """Let the next ``sync`` go back to a history of ``n_tokens``, the start of this one.

        Rows of what came behind must not be kept by that layout: the text may go on otherwise.
        """
        self.n_tokens = min(self.n_tokens, n_tokens)

    def append(self, tokens: ArrayLike) -> Forward:
        """See :meth:`KVWindow.append`."""
        if not self.held:
            return super().append(tokens)
        count = len(tokens)  # type: ignore[arg-type]
        self.n_tokens += count
        nothing = torch.full((1, 1), torch.nan)
        return Forward(nothing.expand(count, self.base.vocab_size), nothing[:0].expand(0, 1))

    def sync(
        self, layout: Layout, vectors: VectorSource, tokens: TokenSource, reread: int = 0
    ) -> SyncStats:
        """See :meth:`KVWindow.sync`."""
        if self.held:
            self.n_tokens = layout.n_tokens
            return SyncStats(0, self.mode, None)
        if self.gists is not None:
            vectors = self.gists.follow(layout, tokens)
        return super().sync(layout, vectors, tokens, reread)
