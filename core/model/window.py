"""The KV window: a slotted cache that follows the working context.

The window holds rows in *window order*; each row has a key (what it stands for), a slot (where its
keys and values lie) and a position (what the position embedding sees). ``append`` adds raw tokens
at the end, ``sync`` follows an edit of the working context.

How an edit is followed:

* ``exact``: all rows from the first changed one on are recomputed; the prefix is reused.
* ``splice``: only the inserted rows are computed, in one pass against the edited window; rows that
  left are dropped, keys whose position shifted are rotated, later rows stay as they are.

In both, the newest row is computed again, so that ``last`` holds the next token's logits *after*
the edit. Behind a question (``reread``) so are the newest rows, which asked before what answers
them was there, and the rows that :mod:`.unread` marks.

Rows ``[0, clean)`` are known to be what a full recompute would give. A *refresh* is the exact
recompute of the rest, in window order and in place, ``refresh_chunk`` rows before each append, so
that no step stalls; an edit that arrives meanwhile moves ``clean`` back to the first row that it
changed. When ``clean`` reaches the end the window is exact again.

Sampling the drift costs an exact recompute at that sync, the one stall that is left: choose
``drift_every`` accordingly. Drift hardly piles up: over 1,000 random edits (17M model, mean-pooled
gists, 512 rows) its mean was 0.13 nats without a refresh and 0.10 with one in every block. It comes
from the latest edits, so it falls with better gists rather than with more refreshes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from megacontext.core.model.attention import column_mass
from megacontext.core.model.base import BaseModel, Forward
from megacontext.core.model.decoder import RunnerKind, pick_runner
from megacontext.core.model.layout import Layout, Rows, layout_rows
from megacontext.core.model.positions import POSITION_MODES, PositionMode, row_positions
from megacontext.core.model.rotary import RotaryLayers, probe_rotary
from megacontext.core.model.row_table import RowTable
from megacontext.core.model.runner import RowRunner
from megacontext.core.model.slotted_cache import SlottedCache
from megacontext.core.model.unread import UnreadRows
from megacontext.traces.errors import ModelError, PlanError
from megacontext.traces.schema import KVMode

__all__ = ["KVWindow", "SyncStats", "TokenSource", "VectorSource"]

VectorSource = Callable[[int, NDArray[np.int64]], Any]
"""(level, node indices I64[n]) -> gist vectors F32[n, d], numpy or torch."""
TokenSource = Callable[[int, int], ArrayLike]
"""(start, stop) -> token ids of the history [start, stop)."""


@dataclass(frozen=True)
class SyncStats:
    """What one ``sync`` did.

    ``rows`` were computed since the last sync beyond the appended ones (inserted rows, the newest
    row again, refreshed rows); ``shifted`` keys were rotated to new positions. ``mode`` is REFRESH
    if rows were refreshed since the last sync. ``drift`` is KL(exact || spliced) of the next
    token in nats where it was sampled.
    """

    rows: int
    mode: KVMode
    drift: float | None
    shifted: int = 0


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
        rotary = probe_rotary(base)
        self.notes = _notes(base, mode, rotary)
        self.mode = KVMode.SPLICE if mode == "splice" and not self.notes else KVMode.EXACT
        if rotary.reason is not None and positions == "global":
            raise ModelError(
                f"positions is 'global' but model '{base.name}' has no rotary positions "
                f"({rotary.reason}), use packed or gap"
            )
        self.drift_every = drift_every
        self.drift_bound = drift_bound
        self.refresh_every = refresh_every
        self.refresh_chunk = refresh_chunk
        self.cache = SlottedCache(base, w_max, rotary)
        self.runner: RowRunner = pick_runner(base, self.cache, runner)
        self.reset()

    def reset(self) -> None:
        """Forget every row, e.g. after the tree was gisted anew."""
        self._table = RowTable(self.w_max)
        self._next_position = 0
        self.cache.place(self._table.slots)
        self.n_tokens = 0
        self.last: Forward | None = None
        self._clean = 0
        self._unread = UnreadRows(self.w_max)
        self._refreshing = False
        self._refreshed_rows = 0
        self._syncs = 0
        self._tokens_since_refresh = 0

    # -- what the window holds ------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._table)

    @property
    def row_keys(self) -> NDArray[np.int64]:
        """Keys of the rows in window order, I64[r]; see :mod:`megacontext.core.model.layout`."""
        return self._table.rows.keys

    @property
    def row_slots(self) -> NDArray[np.int64]:
        """Slots of the rows in window order, I64[r]."""
        return self._table.slots

    @property
    def row_positions(self) -> NDArray[np.int64]:
        """Positions of the rows in window order, strictly increasing, I64[r]."""
        return self._table.positions

    @property
    def max_rows(self) -> int:
        """Rows that one forward computes at most."""
        return self.runner.max_rows

    @property
    def exact_rows(self) -> int:
        """Rows at the window's start that equal a full recompute."""
        return self._clean

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
        count, held = len(ids), len(self)
        if count == 0 or held + count > self.w_max:
            raise PlanError(
                f"append of {count} tokens to a window of {held} rows, w_max is {self.w_max}: "
                "append at least one and refocus before the budget is full"
            )
        self._refresh_step()
        added = self._table.append(self.n_tokens, self._next_position, count)
        self._unread.appended(self._table.slots[added])
        self._next_position += count
        self.n_tokens += count
        self._tokens_since_refresh += count
        if count == 1:
            forward = self._compute_token(int(ids[0]))
        else:
            self._set_inputs(added, self.base.embed(ids))
            forward = self._compute(added, keep_all=True)
        if self.mode is KVMode.SPLICE and 0 < self.refresh_every <= self._tokens_since_refresh:
            self._start_refresh()
        return forward

    def decode(self, token: int) -> Forward:
        """Run one new raw token at the window's end."""
        return self.append([token])

    @torch.no_grad()
    def sync(
        self,
        layout: Layout,
        vectors: VectorSource,
        tokens: TokenSource,
        reread: int = 0,
        keep_last: bool = False,
    ) -> SyncStats:
        """Follow the working context to ``layout``.

        Args:
            layout: the working context after the refocus.
            vectors: gist vectors of inserted gists, by level and node indices.
            tokens: ids of inserted raw tokens.
            reread: newest rows that are computed again; if any, so are the marked ones.
            keep_last: splice leaves the newest row, and with it ``last``, as before the edit if it
                stays: nothing is sampled before more text is read.

        Raises:
            PlanError: the layout exceeds w_max; nothing was changed.
        """
        rows = layout_rows(layout, self.hide_gists)
        if len(rows) > self.w_max:
            raise PlanError(f"a layout of {len(rows)} rows exceeds w_max {self.w_max}, collapse")
        if layout.n_tokens < self.n_tokens:
            raise PlanError(
                f"a layout of {layout.n_tokens} tokens is older than the window, which has seen "
                f"{self.n_tokens}: sync to the newest layout"
            )
        positions, self._next_position = row_positions(
            self.positions, rows, self.w_max, self.base.window
        )
        changed = _first_change(self._table, rows, positions)
        self.n_tokens = layout.n_tokens
        settled = self._clean == len(self) or reread == 0
        if changed == len(rows) == len(self) and settled:
            return self._stats(0, None, 0)
        kept, shifted = self._table.replace(rows, positions)
        self.cache.place(self._table.slots)
        self._clean = min(self._clean, changed)
        self._load_inputs(np.flatnonzero(~kept), vectors, tokens)
        newest = len(rows) - 1
        if self.mode is KVMode.EXACT:
            todo = np.arange(min(changed, newest), len(rows))
            shifted[:] = False  # everything behind the first change is computed anew
        else:
            self.cache.move(self._table.slots[shifted], positions[shifted])
            self._unread.inserted(rows, self._table.slots, kept)
            again = np.arange(len(rows)) >= min(newest, len(rows) - reread)
            again[newest] &= not keep_last
            if reread:
                again |= self._unread.among(self._table.slots)
            todo = np.flatnonzero(~kept | again)
        if len(todo) == 0:
            return self._stats(0, None, int(shifted.sum()))
        self._compute(todo)
        return self._stats(len(todo), self._sampled_drift(), int(shifted.sum()))

    def _load_inputs(
        self, inserted: NDArray[np.int64], vectors: VectorSource, tokens: TokenSource
    ) -> None:
        """Fetch the input embeddings of the inserted rows."""
        rows = self._table.rows
        levels, values = rows.levels[inserted], rows.values[inserted]
        raw = inserted[levels == 0]
        if len(raw):
            at = values[levels == 0]
            runs = np.split(at, np.flatnonzero(np.diff(at) != 1) + 1)
            ids = [np.asarray(tokens(int(run[0]), int(run[-1]) + 1)) for run in runs]
            self._set_inputs(raw, self.base.embed(np.concatenate(ids)))
        for level in np.unique(levels[levels > 0]):
            of_level = levels == level
            found = torch.as_tensor(vectors(int(level), values[of_level]))
            self._set_inputs(inserted[of_level], found)

    def _set_inputs(self, rows: NDArray[np.int64], x: Tensor) -> None:
        inputs = self.cache.inputs
        slots = torch.from_numpy(self._table.slots[rows]).to(inputs.device)
        inputs.index_copy_(0, slots, x.to(inputs))

    def _compute_token(self, token: int) -> Forward:
        newest = len(self) - 1
        slot, position = int(self._table.slots[newest]), int(self._table.positions[newest])
        self.last = self.runner.run_token(token, slot, newest, position)
        self._clean += self._clean == newest
        return self.last

    def _compute(self, todo: NDArray[np.int64], *, keep_all: bool = False) -> Forward:
        """Compute rows ``todo`` (window order, ascending) in place; sets ``last``."""
        slots, positions = self._table.slots, self._table.positions
        parts: list[Forward] = []
        for start in range(0, len(todo), self.max_rows):
            part = todo[start : start + self.max_rows]
            keep = len(part) if keep_all else 1
            parts.append(self.runner.run(slots[part], part, positions[part], keep))
        self._unread.read(slots[todo])
        done = np.zeros(len(self) + 1, dtype=np.bool_)
        done[todo] = True
        self._clean += int(np.argmin(done[self._clean :]))
        if todo[-1] == len(self) - 1:
            self.last = Forward(parts[-1].logits[-1:], parts[-1].hidden[-1:])
        if len(parts) == 1:
            return parts[0]
        return Forward(torch.cat([p.logits for p in parts]), torch.cat([p.hidden for p in parts]))

    def attention_mass(self, layout: Layout, queries: int) -> NDArray[np.float32]:
        """Where the newest rows look, by layer and frontier entry; see :mod:`.attention`.

        Args:
            layout: the working context that the window holds.
            queries: how many of the newest rows ask, at most all.

        Returns:
            F32[L, n]: share of the attention of a layer's heads and queries that goes to each
            frontier entry. What is missing to 1 goes to the tail.
        """
        count = min(queries, len(self))
        columns = column_mass(
            self.base,
            self.cache,
            self._table.slots[-count:].copy(),
            np.arange(len(self) - count, len(self)),
            self._table.positions[-count:].copy(),
        )
        costs = layout.entry_costs(0 if self.hide_gists else 1)
        rows = columns[:, self._table.slots[: int(costs.sum())]]
        stops = np.cumsum(costs)
        total = np.pad(np.cumsum(rows, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
        return (total[:, stops] - total[:, stops - costs]).astype(np.float32)

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
        before = self._refreshed_rows
        self._start_refresh()
        while self._refreshing:
            self._refresh_step()
        return self._refreshed_rows - before

    @torch.no_grad()
    def drift(self) -> float:
        """KL(exact || as cached) of the next token, in nats, by an exact recompute on a copy.

        The cache is left as it was.
        """
        assert self.last is not None
        if self._clean == len(self):
            return 0.0
        cache, last, clean, unread = self.cache, self.last, self._clean, self._unread.copy()
        saved = cache.snapshot(self._table.slots[clean:])
        self._compute(np.arange(clean, len(self)))
        exact = self.last.logits[-1].log_softmax(-1)
        cache.restore(saved)
        self.last, self._clean, self._unread = last, clean, unread
        return float((exact.exp() * (exact - last.logits[-1].log_softmax(-1))).sum())

    def _sampled_drift(self) -> float | None:
        if self.mode is KVMode.EXACT:
            return None
        self._syncs += 1
        if not self.drift_every or self._syncs % self.drift_every:
            return None
        drift = self.drift()
        if self.drift_bound is not None and drift > self.drift_bound:
            self._start_refresh()
        return drift

    def _start_refresh(self) -> None:
        self._refreshing = self._clean < len(self)
        self._tokens_since_refresh = 0

    def _refresh_step(self) -> None:
        if not self._refreshing:
            return
        todo = np.arange(self._clean, min(self._clean + self.refresh_chunk, len(self)))
        if len(todo):
            self._compute(todo)
        self._refreshed_rows += len(todo)
        self._refreshing = self._clean < len(self)

    def _stats(self, rows: int, drift: float | None, shifted: int) -> SyncStats:
        refreshed, self._refreshed_rows = self._refreshed_rows, 0
        mode = KVMode.REFRESH if refreshed else self.mode
        return SyncStats(rows + refreshed, mode, drift, shifted)


def _first_change(table: RowTable, rows: Rows, positions: NDArray[np.int64]) -> int:
    """Index of the first row that differs in key or position; the shorter length if none."""
    n = min(len(table), len(rows))
    same = (table.rows.keys[:n] == rows.keys[:n]) & (table.positions[:n] == positions[:n])
    return n if same.all() else int(np.argmin(same))


def _notes(base: BaseModel, mode: str, rotary: RotaryLayers) -> list[str]:
    reason = rotary.reason or base.splice_refusal
    if mode == "splice" and reason is not None:
        return [
            f"model '{base.name}' runs in kv mode exact: {reason}, so cached keys cannot be moved"
        ]
    return []
