"""The port through which a session and a lens use a KV window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megacontext.core.model.base import Forward
from megacontext.core.model.layout import Layout
from megacontext.core.model.row_inputs import TokenSource, VectorSource
from megacontext.core.model.window import SyncStats
from megacontext.traces.schema import KVMode

__all__ = ["TokenWindow"]


class TokenWindow(Protocol):
    """What follows a working context; see :class:`~megacontext.core.model.window.KVWindow`."""

    def __len__(self) -> int:
        """Rows in use."""
        ...

    @property
    def w_max(self) -> int:
        """Budget in rows."""
        ...

    @property
    def mode(self) -> KVMode:
        """How an edit is followed."""
        ...

    @property
    def max_rows(self) -> int:
        """Rows that one forward computes at most."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Sentences that a user should see."""
        ...

    @property
    def last(self) -> Forward | None:
        """The newest row: its logits and hidden state; None while nothing was computed."""
        ...

    def append(self, tokens: ArrayLike) -> Forward:
        """Run new raw tokens [t] at the window's end; logits [t, V] and hidden states [t, d]."""
        ...

    def run_ahead(self, count: int) -> None:
        """Greedy decoding appends the next ``count`` tokens with no edit before: some of their
        rows may be computed now, as far as the device can choose tokens."""
        ...

    def sync(
        self,
        layout: Layout,
        vectors: VectorSource,
        tokens: TokenSource,
        reread: int = 0,
        fuse: bool = False,
    ) -> SyncStats:
        """Follow the working context to ``layout``."""
        ...

    def attention_mass(self, layout: Layout, queries: int) -> NDArray[np.float32]:
        """F32[L, n]: where the newest rows look, by layer and frontier entry."""
        ...
