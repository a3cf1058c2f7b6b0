"""The KV window: a slotted cache that follows the working context.

The window holds rows in *window order*; each row has a key (what it stands for), a slot (where its
keys and values lie) and a position (what the position embedding sees). ``append`` adds raw tokens
at the end, ``sync`` follows an edit of the working context.

How an edit is followed:

* ``exact``: all rows from the first changed one on are recomputed; the prefix is reused.
* ``splice``: only the inserted rows are computed, in one pass against the edited window; rows that
  left are dropped, keys whose position shifted are rotated, later rows stay as they are. A *fused*
  edit leaves the inserted rows to the next append, whose rows see them in the same pass.

Otherwise the newest row is computed again, so that ``last`` holds the next token's logits *after*
the edit. Behind a question (``reread``) so are the newest rows, which asked before what answers
them was there, and the rows that :mod:`.unread` marks.

A window that was spliced is made exact again now and then; see :mod:`.refresh`. Greedy decoding
on a GPU computes some rows before their tokens are known; see :mod:`.run_ahead`.

Sampling the drift costs an exact recompute at that sync, the one stall that is left: choose
``drift_every`` accordingly. Drift hardly piles up: over 1,000 random edits (17M model, mean-pooled
gists, 512 rows) its mean was 0.13 nats without a refresh and 0.10 with one in every block. It comes
from the latest edits, so it falls with better gists rather than with more refreshes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from megacontext.core.model.attention import entry_mass
from megacontext.core.model.base import BaseModel, Forward
from megacontext.core.model.decoder import RunnerKind, pick_runner
from megacontext.core.model.layout import Layout, layout_rows
from megacontext.core.model.positions import POSITION_MODES, PositionMode, row_positions
from megacontext.core.model.refresh import Refresh
from megacontext.core.model.rotary import probe_rotary
from megacontext.core.model.row_inputs import TokenSource, VectorSource, load_inputs, set_inputs
from megacontext.core.model.runner import RowRunner
from megacontext.core.model.slotted_cache import SlottedCache
from megacontext.core.model.sync_stats import SyncStats
from megacontext.core.model.window_rows import WindowRows
from megacontext.traces.errors import ModelError, PlanError
from megacontext.traces.schema import KVMode

__all__ = ["KVWindow", "SyncStats"]


class KVWindow:
    """A slotted KV cache of at most ``w_max`` rows that follows a working context.

    Args:
        base: the frozen model.
        w_max: budget in rows; the number of slots.
        mode: ``splice`` or ``exact``. A model whose keys cannot be moved runs in ``exact``;
            ``notes`` says so.
        positions: ``packed``, ``global`` or ``gap``; see :mod:`megacontext.core.model.positions`.
        drift_every: sample the drift every so many edits, 0 for never (splice).
        drift_bound: a sampled drift above this starts a refresh, in nats.
        refresh_every: start a refresh every so many appended tokens, 0 for never (splice).
        refresh_chunk: rows refreshed before each append.
        runner: how rows are computed; see :mod:`megacontext.core.model.decoder`.
        hide_gists: gists get no rows, so the model does not see what is collapsed.

    Raises:
        ModelError: w_max beyond the trained window, or positions that the model cannot take.
    """

    def __init__(
        self,
        base: BaseModel,
        w_max: int,
        mode: str = "splice",
        positions: PositionMode = "packed",
        *,
        drift_every: int = 0,
        drift_bound: float | None = None,
        refresh_every: int = 0,
        refresh_chunk: int = 256,
        runner: RunnerKind = "auto",
        hide_gists: bool = False,
    ) -> None:
        if mode not in ("exact", "splice"):
            raise ModelError(f"kv.mode is '{mode}', use exact or splice")
        if positions not in POSITION_MODES:
            raise ModelError(f"positions is '{positions}', use {', '.join(POSITION_MODES)}")
        if w_max > base.window:
            raise ModelError(
                f"w_max is {w_max} but model '{base.name}' {base.bound.why}, "
                f"set w_max to at most {base.window}"
            )
        self.base = base
        self.w_max = w_max
        self.positions = positions
        self.hide_gists = hide_gists

        # Only keys that can be rotated can move, and only they can have any position.
        rotary = probe_rotary(base)
        unmoved = rotary.reason or base.splice_refusal
        self.mode = KVMode.SPLICE if mode == "splice" and unmoved is None else KVMode.EXACT
        self.notes = _notes(base, unmoved if mode == "splice" else None)
        if rotary.reason is not None and positions == "global":
            raise ModelError(
                f"positions is 'global' but model '{base.name}' has no rotary positions "
                f"({rotary.reason}), use packed or gap"
            )

        # How long a spliced window may differ from an exact one.
        self.drift_bound = drift_bound
        refresh = Refresh(self.mode, drift_every, refresh_every, refresh_chunk)

        self.cache = SlottedCache(base, w_max, rotary)
        self.runner: RowRunner = pick_runner(base, self.cache, runner)
        self._store = WindowRows(self.runner, refresh, w_max)
        self.reset()

    def reset(self) -> None:
        """Forget every row, e.g. after the tree was gisted anew."""
        self._store.reset(self.w_max)
        self.cache.place(self._store.table.slots)
        self.n_tokens = 0
        self._drift_due = False  # measure the drift of a fused edit once its rows are there
        self._late_drift: float | None = None

    # -- what the window holds ------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._store)

    @property
    def last(self) -> Forward | None:
        """The newest row's logits and hidden state; None while nothing was computed."""
        return self._store.last

    @property
    def row_keys(self) -> NDArray[np.int64]:
        """Keys of the rows in window order, I64[r]; see :mod:`megacontext.core.model.layout`."""
        return self._store.table.rows.keys

    @property
    def row_slots(self) -> NDArray[np.int64]:
        """Slots of the rows in window order, I64[r]."""
        return self._store.table.slots

    @property
    def row_positions(self) -> NDArray[np.int64]:
        """Positions of the rows in window order, strictly increasing, I64[r]."""
        return self._store.table.positions

    @property
    def max_rows(self) -> int:
        """Rows that one forward computes at most."""
        return self.runner.max_rows

    @property
    def exact_rows(self) -> int:
        """Rows at the window's start that equal a full recompute."""
        return self._store.refresh.clean

    # -- following the working context ----------------------------------------------------------

    @torch.no_grad()
    def append(self, tokens: ArrayLike) -> Forward:
        """Run new raw tokens [t] at the window's end.

        Returns the logits after each of them. A pending refresh first takes its next chunk, so
        that the returned logits already see it.

        Raises:
            PlanError: the tokens do not fit the budget; nothing was computed.
        """
        ids = np.asarray(tokens, dtype=np.int64)
        count = len(ids)
        if count == 0 or len(self) + count > self.w_max:
            raise PlanError(
                f"append of {count} tokens to a window of {len(self)} rows, w_max is {self.w_max}: "
                "append at least one and refocus before the budget is full"
            )
        store = self._store
        store.compute_refresh()

        # New rows at the end of the window.
        added = store.table.append(self.n_tokens, store.next_position, count)
        store.unread.appended(store.table.slots[added])
        store.next_position += count
        self.n_tokens += count
        store.refresh.appended(count)

        # One forward, with the rows that a fused edit left to it.
        if count == 1 and not len(store.deferred):
            forward = store.compute_token(int(ids[0]))
        else:
            set_inputs(self.cache, store.table.slots[added], self.base.embed(ids))
            forward = store.compute_with_deferred(added)

        # The edit's drift can be measured now; a refresh starts by drift or by count.
        if self._drift_due:
            self._drift_due, self._late_drift = False, self._measured_drift()
        store.refresh.start_if_due(len(self))
        return forward

    def decode(self, token: int) -> Forward:
        """Run one new raw token at the window's end."""
        return self.append([token])

    @torch.no_grad()
    def run_ahead(self, count: int) -> None:
        """Compute the next rows, up to ``count``, before the host knows their tokens.

        Greedy decoding will append them, and no edit comes before. Does nothing where the device
        does not choose tokens, or while a refresh changes rows in between.
        """
        if not (self._store.refresh.running or self._drift_due):
            self._store.compute_ahead(min(count, self.w_max - len(self)))

    @torch.no_grad()
    def sync(
        self,
        layout: Layout,
        vectors: VectorSource,
        tokens: TokenSource,
        reread: int = 0,
        fuse: bool = False,
    ) -> SyncStats:
        """Follow the working context to ``layout``.

        Args:
            layout: the working context after the refocus.
            vectors: gist vectors of inserted gists, by level and node indices.
            tokens: ids of inserted raw tokens.
            reread: newest rows that are computed again; if any, so are the marked ones.
            fuse: splice computes the inserted rows in the next append's forward and leaves the
                newest row, and with it ``last``, as it is: nothing is sampled in between.

        Raises:
            PlanError: the layout exceeds w_max; nothing was changed.
        """
        self.finish()
        store = self._store
        rows = layout_rows(layout, self.hide_gists)
        if len(rows) > self.w_max:
            raise PlanError(f"a layout of {len(rows)} rows exceeds w_max {self.w_max}, collapse")
        if layout.n_tokens < self.n_tokens:
            raise PlanError(
                f"a layout of {layout.n_tokens} tokens is older than the window, which has seen "
                f"{self.n_tokens}: sync to the newest layout"
            )

        # What changes; an edit that changes nothing costs nothing.
        positions, store.next_position = row_positions(
            self.positions, rows, self.w_max, self.base.window
        )
        changed = store.table.first_change(rows, positions)
        self.n_tokens = layout.n_tokens
        settled = store.refresh.clean == len(self) or reread == 0
        if changed == len(rows) == len(self) and settled:
            return self._stats(0, None, 0)

        # Rows leave and enter; those that stay keep their slots.
        kept, shifted = store.table.replace(rows, positions)
        store.ahead.drop()
        self.cache.place(store.table.slots)
        store.refresh.edited(changed)
        load_inputs(self.base, self.cache, store.table, np.flatnonzero(~kept), vectors, tokens)

        # The rows to compute: all from the first change on, or the inserted ones and a few more.
        newest = len(rows) - 1
        if self.mode is KVMode.EXACT:
            todo = np.arange(min(changed, newest), len(rows))
            shifted[:] = False  # everything behind the first change is computed anew
        else:
            self.cache.move(store.table.slots[shifted], positions[shifted])
            store.unread.inserted(rows, store.table.slots, kept)
            if fuse:
                return self._defer(np.flatnonzero(~kept), int(shifted.sum()))
            again = np.arange(len(rows)) >= min(newest, len(rows) - reread)
            if reread:
                again |= store.unread.among(store.table.slots)
            todo = np.flatnonzero(~kept | again)
        if len(todo) == 1 and rows.levels[newest] == 0:
            at = int(rows.values[newest])
            store.compute_token(int(np.asarray(tokens(at, at + 1))[0]))
        else:
            store.compute(todo)
        return self._stats(len(todo), self._sampled_drift(), int(shifted.sum()))

    def _defer(self, rows: NDArray[np.int64], shifted: int) -> SyncStats:
        """Leave inserted ``rows`` to the next append, and the drift of this edit, too."""
        self._store.deferred = rows
        self._drift_due = self._store.refresh.drift_is_due()
        return self._stats(len(rows), None, shifted)

    @torch.no_grad()
    def finish(self) -> None:
        """Compute the rows that a fused edit left to an append that did not come."""
        self._store.compute_deferred()

    def attention_mass(self, layout: Layout, queries: int) -> NDArray[np.float32]:
        """Where the newest rows look, by layer and frontier entry; see :mod:`.attention`.

        Args:
            layout: the working context that the window holds.
            queries: how many of the newest rows ask, at most all.

        Returns:
            F32[L, n]: share of the attention of a layer's heads and queries that goes to each
            frontier entry. What is missing to 1 goes to the tail.
        """
        self.finish()
        return entry_mass(
            self.base,
            self.cache,
            self._store.table,
            layout.entry_costs(0 if self.hide_gists else 1),
            min(queries, len(self)),
        )

    def describe(self) -> str:
        """One line on how the window works, for ``megacontext doctor`` and the run's log."""
        parts = [
            self.runner.describe(),
            f"kv {self.mode.name.lower()}",
            f"{self.positions} positions",
        ]
        return "; ".join([*parts, *self.notes])

    # -- staying close to the exact value -------------------------------------------------------

    @torch.no_grad()
    def refresh(self) -> int:
        """Recompute every row that may differ from the exact value; returns how many."""
        self.finish()
        before = self._store.refresh.rows
        self._store.refresh.start(len(self))
        while self._store.refresh.running:
            self._store.compute_refresh()
        return self._store.refresh.rows - before

    @torch.no_grad()
    def drift(self) -> float:
        """KL(exact || as cached) of the next token, in nats, by an exact recompute on a copy.

        The cache is left as it was.
        """
        store, last = self._store, self.last
        assert last is not None
        clean = store.refresh.clean
        if clean == len(self):
            return 0.0
        self.finish()
        cache, unread = self.cache, store.unread.copy()
        saved = cache.snapshot(store.table.slots[clean:])
        exact = store.compute(np.arange(clean, len(self))).logits[-1].log_softmax(-1)
        cache.restore(saved)
        store.last, store.refresh.clean, store.unread = last, clean, unread
        return float((exact.exp() * (exact - last.logits[-1].log_softmax(-1))).sum())

    def _sampled_drift(self) -> float | None:
        return self._measured_drift() if self._store.refresh.drift_is_due() else None

    def _measured_drift(self) -> float:
        """The drift now; a refresh starts if it is beyond the bound."""
        drift = self.drift()
        if self.drift_bound is not None and drift > self.drift_bound:
            self._store.refresh.start(len(self))
        return drift

    def _stats(self, rows: int, drift: float | None, shifted: int) -> SyncStats:
        refreshed = self._store.refresh.take_rows()
        late, self._late_drift = self._late_drift, None
        drift = late if drift is None else drift
        mode = KVMode.REFRESH if refreshed else self.mode
        return SyncStats(rows + refreshed, mode, drift, shifted)


def _notes(base: BaseModel, unmoved: str | None) -> list[str]:
    """What a user should know: why cached keys are not moved, why CUDA graphs are not used."""
    notes = []
    if unmoved is not None:
        notes.append(
            f"model '{base.name}' runs in kv mode exact: {unmoved}, so cached keys cannot be moved"
        )
    if base.graphs_refusal is not None:
        notes.append(
            f"model '{base.name}' decodes more slowly than it could: {base.graphs_refusal}"
        )
    return notes
