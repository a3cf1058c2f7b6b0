"""What a lens reads: frontier, newest tokens, hidden states, NLL, attention, ground truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from megacontext.core.lenses import Observation
from megacontext.core.model.layout import Layout
from megacontext.core.runtime.build import EngineParts

__all__ = ["Observer"]


class Observer:
    """Collects what a lens may read, and builds the :class:`Observation` of each round."""

    def __init__(self, parts: EngineParts) -> None:
        self._parts = parts
        self._query = np.empty(0, np.uint32)
        # A trained lens says how much it was trained on; the others take what the config names.
        needs, configured = parts.lens.requires, parts.config.lens.query_tokens
        self._query_tokens = configured if needs.query_tokens is None else needs.query_tokens
        self._hidden_states = needs.hidden_states
        self._measures_attention = needs.attention
        self._hidden: Any | None = None
        self._nll = np.full(1024, np.nan, np.float32)
        self._facts: dict[str, tuple[int, int]] = {}
        self._target: tuple[int, int] | None = None
        self._question_tokens = 0
        self._mass: tuple[np.ndarray, np.ndarray] | None = None

    def warm_up(self, nll: np.ndarray) -> None:
        """Take the query from a history that is there already.

        Args:
            nll: float32 [t] in nats, of its newest tokens; what is older counts as unknown.
        """
        n_tokens, tree = self._parts.focus.working_context.n_tokens, self._parts.tree
        self._store_nll(nll, n_tokens - len(nll))
        start = max(0, n_tokens - self._query_tokens)
        self._query = np.array(tree.tokens(start, n_tokens))
        last = self._parts.window.last
        if last is not None:
            self._store_hidden(last.hidden)

    def on_tokens(
        self, tokens: np.ndarray, nll: np.ndarray, start: int, hidden: Any | None = None
    ) -> None:
        """New history from position ``start``.

        Args:
            tokens: uint32 [t]. nll: float32 [t] in nats. hidden: torch [t, d], last hidden states
                after them; None of a window that computed nothing.
        """
        self._store_nll(nll, start)
        self._query = np.concatenate([self._query, tokens])[-self._query_tokens :]
        self._store_hidden(hidden)

    def _store_nll(self, nll: np.ndarray, start: int) -> None:
        stop = start + len(nll)
        while stop > len(self._nll):
            self._nll = np.concatenate([self._nll, np.full_like(self._nll, np.nan)])
        self._nll[start:stop] = nll

    def _store_hidden(self, hidden: Any | None) -> None:
        """Store as many of the newest states as the lens was trained on.

        They are copied, because a replayed CUDA graph writes the next ones to the same memory.
        """
        if hidden is None or not len(hidden) or not self._hidden_states:
            self._hidden = None
            return

        fresh = hidden[-self._hidden_states :]
        if self._hidden is None or len(fresh) == self._hidden_states:
            self._hidden = fresh.clone()
        else:
            self._hidden = torch.cat((self._hidden, fresh))[-self._hidden_states :]

    def register_fact(self, name: str, start: int, stop: int) -> None:
        """Tokens [start, stop) hold a fact that questions may be about."""
        self._facts[name] = (start, stop)

    def set_question(self, question_tokens: int) -> None:
        """How many of the newest tokens are a question that is asked now; 0: none is."""
        self._question_tokens = question_tokens

    def set_target(self, name: str | None) -> None:
        """The fact that is asked about from now on (for the ``oracle`` lens), or none."""
        self._target = None if name is None else self._facts.get(name)

    def begin(self, layout: Layout) -> None:
        """A refocus starts over ``layout``: measure attention if the lens requires it."""
        if self._measures_attention and len(layout.levels):
            mass_n = self._parts.window.attention_mass(layout, self._query_tokens).mean(axis=0)
            starts = self._parts.focus.working_context.starts
            self._mass = np.append(starts, layout.tail_start), mass_n

    def observe(self, step: int, number: int) -> Observation:
        """The observation of round ``number`` of refocus ``step``."""
        parts, context = self._parts, self._parts.focus.working_context
        target = None if self._target is None else np.array([self._target], np.int64)

        # The frontier as it is in this round; all else as it was when the refocus began.
        return Observation(
            levels=context.levels,
            index=context.index,
            starts=context.starts,
            n_tokens=context.n_tokens,
            tail_tokens=context.tail_tokens,
            block_size=context.block_size,
            tree=parts.tree,
            step=step,
            round=number,
            seed=parts.config.seed,
            query_tokens=self._query,
            question_tokens=self._question_tokens,
            query_hidden=self._hidden,
            attention=self._attention(),
            surprisal=self._nll[: context.n_tokens],
            target_spans=target,
        )

    def _attention(self) -> np.ndarray | None:
        """Mass of each present frontier entry; a row's mass spreads evenly over its tokens."""
        if self._mass is None:
            return None
        bounds, mass = self._mass
        context = self._parts.focus.working_context
        total = np.concatenate([[0.0], np.cumsum(mass, dtype=np.float64)])
        ends = np.append(context.starts, context.n_tokens - context.tail_tokens)
        pooled: np.ndarray = np.diff(np.interp(ends, bounds, total)).astype(np.float32)
        return pooled
