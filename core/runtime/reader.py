"""How the model reads new text: through the KV window at once, or once the window is needed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from megacontext.core.focus import WorkingContext
from megacontext.core.model.layout import Layout
from megacontext.core.model.window import SyncStats
from megacontext.core.runtime.build import EngineParts
from megacontext.core.runtime.nll import check_nll, token_nll
from megacontext.core.tree.spec import F32, U32

__all__ = ["WindowReader", "bulk_tokens"]


def bulk_tokens(left: int, chunk: int, context: WorkingContext) -> int:
    """How many of the next ``left`` tokens one forward reads and one refocus follows.

    As many whole blocks as the budget has room for, at most ``chunk`` tokens. 0 where that is no
    more than a block: then text is read block by block.
    """
    size, tail = context.block_size, context.tail_tokens
    in_blocks = (tail + left) // size * size
    if chunk <= size or in_blocks < 2 * size:
        return 0
    fits = tail + min(chunk, context.free)
    return min(in_blocks, fits // size * size) - tail


class WindowReader:
    """Runs new tokens through the window of ``parts`` and keeps the window at the layout.

    Attributes:
        postponed: appended text is not read; :meth:`catch_up` brings the window to the layout.
    """

    def __init__(self, parts: EngineParts) -> None:
        self._base, self._tree, self._window = parts.base, parts.tree, parts.window
        self._context = parts.focus.working_context
        self._measures = parts.config.ingest.nll or parts.lens.requires.attention
        self.postponed = False

    def expect_text(self) -> None:
        """Plain text comes next, which ``ingest.nll: false`` does not read at once."""
        self.postponed = self.postponed or not self._measures

    def catch_up(self) -> None:
        """Bring a window that was postponed to the layout; what comes next is read."""
        if self.postponed:
            self.sync(postpone=False)

    def read(self, tokens: U32, start: int) -> tuple[F32, Tensor | None]:
        """Run the next tokens through the window, or only count them while postponed.

        Args:
            tokens: uint32 [t] from position ``start`` of the history on.

        Returns:
            NLL F32[t] in nats, NaN where none was computed, and the last hidden states [t, d].
        """
        nll = np.full(len(tokens), np.nan, np.float32)
        if self.postponed:
            return nll, None
        window, known = self._window, self._window.last is not None
        hidden: list[Tensor] = []

        # One forward at a time: the logits of a long text would fill the memory.
        for at in range(0, len(tokens), window.max_rows):
            part, before = tokens[at : at + window.max_rows], window.last
            forward = window.append(part)
            if before is not None:
                nll[at] = token_nll(before.logits[-1:], part[:1])[0]
            if len(forward.logits) > 1:
                nll[at + 1 : at + len(part)] = token_nll(forward.logits[:-1], part[1:])
            hidden.append(forward.hidden)

        if window.last is not None:  # a lazy window has computed nothing yet
            check_nll(self._base, nll[int(not known) :], start)
        return nll, torch.cat(hidden) if len(hidden) > 1 else hidden[0]

    def sync(self, *, reread: int = 0, more_text: bool = False, postpone: bool = True) -> SyncStats:
        """Bring the window to the layout, unless text that is not read comes in.

        Args:
            reread: newest rows that are computed again.
            more_text: nothing is sampled before more text is read.
            postpone: leave a postponed window as it is.
        """
        if self.postponed and postpone:
            return SyncStats(0, self._window.mode, None)
        self.postponed = False
        vectors, tokens = self._tree.gist_rows, self._tree.tokens
        return self._window.sync(self.layout(), vectors, tokens, reread, fuse=more_text)

    def layout(self) -> Layout:
        """The working context as the window follows it."""
        context = self._context
        return Layout(
            levels=context.levels,
            index=context.index,
            tail_start=context.n_tokens - context.tail_tokens,
            n_tokens=context.n_tokens,
            block_size=context.block_size,
        )
