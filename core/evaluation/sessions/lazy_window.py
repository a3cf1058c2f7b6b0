"""A KV window whose computation is deferred until its logits are needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from megacontext.core.model import KVWindow
from megacontext.core.model.base import Forward
from megacontext.core.model.layout import Layout
from megacontext.core.model.row_inputs import TokenSource, VectorSource
from megacontext.core.model.sync_stats import SyncStats
from megacontext.core.tree import Tree
from megacontext.traces.schema import KVMode

__all__ = ["GistOverride", "LazyKVWindow"]


class GistOverride:
    """Gist vectors of another tree over the same tokens, e.g. mean-pooled ones."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def follow(self, layout: Layout, tokens: TokenSource) -> VectorSource:
        """The vectors' source once the tree has read what ``layout`` covers."""
        known = self._tree.n_tokens
        if layout.n_tokens > known:
            self._tree.append(tokens(known, layout.n_tokens))  # type: ignore[arg-type]
        return self._tree.gist_rows


class LazyKVWindow:
    """A :class:`~megacontext.core.model.token_window.TokenWindow` that defers its computation.

    While ``waits`` is True, it only counts the tokens of the history: ``append`` returns no logits
    and ``last`` is None. Once ``waits`` is False, the next ``sync`` computes the whole window. One
    window serves all budgets up to its slots, since on a GPU each new one captures CUDA graphs.

    Attributes:
        waits: see above.
        gists: vectors that replace the session's own gists, or None.
    """

    def __init__(self, window: KVWindow) -> None:
        self._window = window
        self.waits = False
        self.gists: GistOverride | None = None

    def __len__(self) -> int:
        return len(self._window)

    @property
    def w_max(self) -> int:
        """See :class:`~megacontext.core.model.token_window.TokenWindow`."""
        return self._window.w_max

    @property
    def slots(self) -> int:
        """The largest budget that it can serve."""
        return self._window.cache.slots

    @property
    def hide_gists(self) -> bool:
        """Whether gists get no rows."""
        return self._window.hide_gists

    @hide_gists.setter
    def hide_gists(self, hide: bool) -> None:
        self._window.hide_gists = hide

    @property
    def mode(self) -> KVMode:
        """See :class:`~megacontext.core.model.token_window.TokenWindow`."""
        return self._window.mode

    @property
    def max_rows(self) -> int:
        """See :class:`~megacontext.core.model.token_window.TokenWindow`."""
        return self._window.max_rows

    @property
    def notes(self) -> Sequence[str]:
        """See :class:`~megacontext.core.model.token_window.TokenWindow`."""
        return self._window.notes

    @property
    def last(self) -> Forward | None:
        """See :class:`~megacontext.core.model.token_window.TokenWindow`."""
        return self._window.last

    def start_over(self, w_max: int) -> None:
        """Empty, not waiting, with the session's own gists, and a budget of ``w_max`` rows."""
        self._window.w_max = w_max
        self._window.reset()
        self.waits = False
        self.gists = None

    def rewind(self, n_tokens: int) -> None:
        """Allow the next ``sync`` to be that of a shorter history of ``n_tokens``, a prefix.

        Its layout must not reuse rows of later tokens, since other text may follow.
        """
        self._window.n_tokens = min(self._window.n_tokens, n_tokens)

    def append(self, tokens: ArrayLike) -> Forward:
        """See :class:`~megacontext.core.model.token_window.TokenWindow`."""
        if not self.waits:
            return self._window.append(tokens)
        count = len(tokens)  # type: ignore[arg-type]
        self._window.n_tokens += count
        return Forward(torch.empty(0, self._window.base.vocab_size), torch.empty(0, 1))

    def run_ahead(self, count: int) -> None:
        """See :class:`~megacontext.core.model.token_window.TokenWindow`."""
        if not self.waits:
            self._window.run_ahead(count)

    def sync(
        self,
        layout: Layout,
        vectors: VectorSource,
        tokens: TokenSource,
        reread: int = 0,
        fuse: bool = False,
    ) -> SyncStats:
        """See :class:`~megacontext.core.model.token_window.TokenWindow`."""
        if self.waits:
            self._window.n_tokens = layout.n_tokens
            return SyncStats(0, self._window.mode, None)
        if self.gists is not None:
            vectors = self.gists.follow(layout, tokens)
        return self._window.sync(layout, vectors, tokens, reread, fuse)

    def attention_mass(self, layout: Layout, queries: int) -> NDArray[np.float32]:
        """See :class:`~megacontext.core.model.token_window.TokenWindow`."""
        return self._window.attention_mass(layout, queries)
