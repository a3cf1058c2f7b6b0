"""How the model reads new text: through the KV window at once, or once the window is needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from megacontext.core.focus import WorkingContext
from megacontext.core.focus.actions import I8
from megacontext.core.model.layout import Layout
from megacontext.core.model.window import SyncStats
from megacontext.core.runtime.build import EngineParts
from megacontext.core.runtime.nll import check_nll, first_nll, token_nll
from megacontext.core.tree.spec import F32, U32
from megacontext.traces.errors import SourceError
from megacontext.traces.schema import Trigger

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

    The window may be behind the layout for two reasons: text is *postponed* (``ingest.nll``), that
    is, appended without being read, or an edit *waits* (``focus.lag``) for some tokens more.
    """

    def __init__(self, parts: EngineParts) -> None:
        self._base, self._tree, self._window = parts.base, parts.tree, parts.window
        self._context, self._sampler = parts.focus.working_context, parts.sampler
        self._measures = parts.config.ingest.nll or parts.lens.requires.attention
        self._postponed = False
        self._edit_at: int | None = None  # length of the history at which an edit is followed
        self._rows_before = 0  # computed by edits that waited, since the last refocus

    def expect_text(self) -> None:
        """Plain text comes next, which ``ingest.nll: false`` does not read at once."""
        self._postponed = self._postponed or not self._measures

    def catch_up(self) -> None:
        """Bring a window that was postponed to the layout; what comes next is read."""
        if self._postponed:
            self.sync(postpone=False)

    def settle(self) -> None:
        """Bring the window to the layout: a question neither waits nor is read late."""
        if self._postponed or self._edit_at is not None:
            self.sync(postpone=False)

    def start(self) -> None:
        """Fill the window from a history that is there already."""
        if self._edit_at is None:
            self.sync(postpone=False)

    def hold(self, levels: I8, lag: int) -> None:
        """Fill the window as it was when an edit waited that a resumed run has in its layout.

        Args:
            levels: I8[n] of the frontier before that edit.
            lag: tokens that the edit waits from the present history on.
        """
        context = self._context
        before = WorkingContext.from_levels(
            levels,
            context.n_tokens,
            block_size=context.block_size,
            max_levels=context.max_levels,
            w_max=context.w_max,
            protected_blocks=context.protected_blocks,
        )
        self._window.sync(layout_of(before), self._tree.gist_rows, self._tree.tokens)
        self._edit_at = context.n_tokens + lag

    def follow(self, trigger: Trigger, lag: int, reread: int) -> SyncStats:
        """Bring the window to the layout of a refocus, or let the edit wait.

        Args:
            trigger: of the refocus; only the end of a block waits.
            lag: tokens that it waits.
            reread: newest rows that are computed again.
        """
        if lag and trigger == Trigger.BLOCK_CLOSED:
            self._edit_at = self._context.n_tokens + lag
            return self._stats(SyncStats(0, self._window.mode, None))
        return self.sync(reread=reread, more_text=trigger == Trigger.BULK)

    def read(self, tokens: U32, start: int) -> tuple[F32, Tensor | None]:
        """Run the next tokens through the window, or only count them while postponed.

        Args:
            tokens: uint32 [t] from position ``start`` of the history on.

        Returns:
            NLL F32[t] in nats, NaN where none was computed, and the last hidden states [t, d].
        """
        nll = np.full(len(tokens), np.nan, np.float32)
        if self._postponed:
            return nll, None
        window, known = self._window, self._window.last is not None
        self._follow_edit(len(tokens), start)
        hidden: list[Tensor] = []

        # One forward at a time: the logits of a long text would fill the memory.
        for at in range(0, len(tokens), window.max_rows):
            part, before = tokens[at : at + window.max_rows], window.last
            first = None if before is None else first_nll(before, part[:1])
            forward = window.append(part)
            if first is not None:  # the host need not wait for the forward
                nll[at] = first()
            if len(forward.logits) > 1:
                nll[at + 1 : at + len(part)] = token_nll(forward.logits[:-1], part[1:])
            hidden.append(forward.hidden)

        if window.last is not None:  # a lazy window has computed nothing yet
            check_nll(self._base, nll[int(not known) :], start)
        return nll, torch.cat(hidden) if len(hidden) > 1 else hidden[0]

    def run_ahead(self, count: int, lag: int) -> None:
        """Let the device compute some of the next ``count`` tokens while the host takes in others.

        An edit that is due before the next token is followed at once, and no token is computed
        ahead of the edit that comes after it. Only greedy decoding goes ahead.

        Args:
            lag: tokens that the edit of the next closed block waits.
        """
        if not self._sampler.greedy or self._postponed or self._window.last is None:
            return
        context = self._context
        self._follow_edit(1, context.n_tokens)
        if self._edit_at is None:
            until_edit = context.block_size - context.tail_tokens + lag
        else:
            until_edit = self._edit_at - context.n_tokens
        self._window.run_ahead(min(count, until_edit))

    def next_token(self) -> int:
        """The token that comes next.

        Raises:
            SourceError: the history is empty.
        """
        last = self._window.last
        if last is None:
            raise SourceError("There is nothing to decode from; ingest some text first.")
        if self._sampler.greedy and last.choice is not None:
            return last.choice.token
        return self._sampler.sample(last.logits[-1], self._context.n_tokens)

    def _follow_edit(self, count: int, start: int) -> None:
        """Follow an edit that waited, if ``count`` tokens from ``start`` on go beyond its lag or
        fit in no other way; its rows are computed with them."""
        if self._edit_at is None:
            return
        if start + count > self._edit_at or len(self._window) + count > self._window.w_max:
            self._rows_before = self.sync(more_text=True).rows

    def sync(self, *, reread: int = 0, more_text: bool = False, postpone: bool = True) -> SyncStats:
        """Bring the window to the layout, unless text that is not read comes in.

        Args:
            reread: newest rows that are computed again.
            more_text: nothing is sampled before more text is read.
            postpone: leave a postponed window as it is.
        """
        if self._postponed and postpone:
            return SyncStats(0, self._window.mode, None)
        self._postponed, self._edit_at = False, None
        vectors, tokens = self._tree.gist_rows, self._tree.tokens
        stats = self._window.sync(self.layout(), vectors, tokens, reread, fuse=more_text)
        return self._stats(stats)

    def _stats(self, stats: SyncStats) -> SyncStats:
        """``stats`` of a refocus with the rows of an edit that waited until after the last one."""
        rows, self._rows_before = stats.rows + self._rows_before, 0
        return replace(stats, rows=rows)

    def layout(self) -> Layout:
        """The working context as the window follows it."""
        return layout_of(self._context)


def layout_of(context: WorkingContext) -> Layout:
    """A working context as a window follows it."""
    return Layout(
        levels=context.levels,
        index=context.index,
        tail_start=context.n_tokens - context.tail_tokens,
        n_tokens=context.n_tokens,
        block_size=context.block_size,
    )
