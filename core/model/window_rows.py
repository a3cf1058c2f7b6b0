"""The rows of a window: where they lie, and what is computed of them and when."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from megacontext.core.model.base import Forward
from megacontext.core.model.choice import Choice
from megacontext.core.model.refresh import Refresh
from megacontext.core.model.row_table import RowTable
from megacontext.core.model.run_ahead import RunAhead
from megacontext.core.model.runner import RowRunner
from megacontext.core.model.unread import UnreadRows

__all__ = ["WindowRows"]

_NO_ROWS = np.empty(0, np.int64)


class WindowRows:
    """Computes rows in place and keeps account of them.

    Attributes:
        table: the rows in window order with their slots and positions.
        next_position: of the next token.
        unread: which rows were read without text that stands before them now.
        refresh: which rows equal a full recompute.
        last: the newest row's logits and hidden state.
        ahead: rows computed before their tokens are known.
        deferred: rows (window order) that a fused edit left to the next append.
    """

    def __init__(self, runner: RowRunner, refresh: Refresh, capacity: int) -> None:
        self._runner = runner
        self.refresh = refresh
        self.ahead = RunAhead(runner)
        self.reset(capacity)

    def reset(self, capacity: int) -> None:
        """No row, and room for ``capacity`` of them."""
        self.table = RowTable(capacity)
        self.unread = UnreadRows(capacity)
        self.next_position = 0
        self.last: Forward | None = None
        self.deferred = _NO_ROWS
        self.refresh.reset()
        self.ahead.drop()

    def __len__(self) -> int:
        return len(self.table)

    def compute_token(self, token: int) -> Forward:
        """Compute the newest row, a raw token; sets ``last``."""
        newest = len(self) - 1
        slot, position = int(self.table.slots[newest]), int(self.table.positions[newest])
        forward = self.ahead.take(self.last, token)
        if forward is None:
            forward = self._runner.run_token(token, slot, newest, position)
        self.unread.read(self.table.slots[newest:])
        self.refresh.clean += self.refresh.clean == newest
        self.last = forward
        return forward

    def compute(self, todo: NDArray[np.int64], *, keep: int = 1) -> Forward:
        """Compute rows ``todo`` I64[n] (window order, ascending) in place; sets ``last``.

        Returns logits and hidden states of the last ``keep`` of them.
        """
        slots, positions = self.table.slots, self.table.positions
        parts: list[Forward] = []
        for start in range(0, len(todo), self._runner.max_rows):
            part = todo[start : start + self._runner.max_rows]
            keep_here = len(part) - max(0, len(todo) - keep - start)
            forward = self._runner.run(slots[part], part, positions[part], max(keep_here, 1))
            if keep_here > 0:
                parts.append(forward)

        self._computed(todo)
        if todo[-1] == len(self) - 1:
            newest = parts[-1]
            self.last = Forward(newest.logits[-1:], newest.hidden[-1:], newest.choice)
        if len(parts) == 1:
            return parts[0]
        return Forward(torch.cat([p.logits for p in parts]), torch.cat([p.hidden for p in parts]))

    def _computed(self, rows: NDArray[np.int64]) -> None:
        self.unread.read(self.table.slots[rows])
        self.refresh.computed(rows, len(self))

    def compute_deferred(self) -> None:
        """Compute the rows that a fused edit left to an append that did not come."""
        todo, self.deferred = self.deferred, _NO_ROWS
        if len(todo):
            self.compute(todo)

    def compute_with_deferred(self, added: NDArray[np.int64]) -> Forward:
        """Compute the newest rows ``added`` I64[t] and what a fused edit left to them."""
        self.ahead.drop()
        todo, self.deferred = np.concatenate([self.deferred, added]), _NO_ROWS
        return self.compute(todo, keep=len(added))

    def compute_refresh(self) -> None:
        """Compute the next rows of a refresh that is under way."""
        if not self.refresh.running or len(self.deferred):
            return
        self.ahead.drop()  # they saw rows that change now
        todo = self.refresh.next_rows(len(self))
        if len(todo):
            self.compute(todo)
        self.refresh.end_if_done(len(self))

    def compute_ahead(self, count: int) -> None:
        """Compute up to ``count`` next rows whose tokens the device chooses."""
        while len(self.ahead) < min(count, self.ahead.most):
            choice = self.ahead.newest(self.last)
            if choice is None:
                return
            distance = len(self.ahead)
            slot, order = self.table.slot_ahead(distance), len(self) + distance
            position = self.next_position + distance
            if len(self.deferred):
                self._fuse_ahead(choice, slot, order, position)
            else:
                self.ahead.compute(choice, slot, order, position)

    def _fuse_ahead(self, choice: Choice, slot: int, order: int, position: int) -> None:
        """Compute the next row together with those that a fused edit left to it."""
        if len(self.deferred) >= self._runner.max_rows:  # they need forwards of their own
            self.compute_deferred()
            return
        todo, self.deferred = self.deferred, _NO_ROWS
        rows = np.stack([self.table.slots[todo], todo, self.table.positions[todo]])
        self.ahead.compute_with(choice, np.append(rows, [[slot], [order], [position]], axis=1))
        self._computed(todo)
