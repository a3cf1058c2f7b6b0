"""What the lens gets to see: the frontier, the newest tokens, surprisal, attention, truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from megacontext.core.lenses import Observation
from megacontext.core.model.layout import Layout
from megacontext.core.runtime.build import Parts

__all__ = ["Observer"]


class Observer:
    """Keeps what a lens may ask for and gives it out as an :class:`Observation` per round."""

    def __init__(self, parts: Parts) -> None:
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
        self._wanted: tuple[int, int] | None = None
        self._question_tokens = 0
        self._mass: tuple[np.ndarray, np.ndarray] | None = None

    def warm_up(self, nll: np.ndarray) -> None:
        """Take the query from a history that is there already.

        Args:
            nll: float32 [t] in nats, of its newest tokens; what is older counts as unknown.
        """
        n_tokens, tree = self._parts.focus.working_context.n_tokens, self._parts.tree
        self._place(nll, n_tokens - len(nll))
        start = max(0, n_tokens - self._query_tokens)
        self._query = np.array(tree.tokens(start, n_tokens))
        last = self._parts.window.last
        if last is not None:
            self._keep(last.hidden)

    def tokens(
        self, tokens: np.ndarray, nll: np.ndarray, start: int, hidden: Any | None = None
    ) -> None:
        """New history from position ``start``.

        Args:
            tokens: uint32 [t]. nll: float32 [t] in nats. hidden: torch [t, d], last hidden states
                behind them; none of a window that computed nothing.
        """
        self._place(nll, start)
        self._query = np.concatenate([self._query, tokens])[-self._query_tokens :]
        self._keep(hidden)

    def _place(self, nll: np.ndarray, start: int) -> None:
        stop = start + len(nll)
        while stop > len(self._nll):
            self._nll = np.concatenate([self._nll, np.full_like(self._nll, np.nan)])
        self._nll[start:stop] = nll

    def _keep(self, hidden: Any | None) -> None:
        """The newest states as the lens was trained on them; a copy, as a replayed graph writes
        the next ones to the same place."""
        if hidden is None or not len(hidden) or not self._hidden_states:
            self._hidden = None
            return
        fresh = hidden[-self._hidden_states :]
        if self._hidden is None or len(fresh) == self._hidden_states:
            self._hidden = fresh.clone()
        else:
            self._hidden = torch.cat((self._hidden, fresh))[-self._hidden_states :]

    def plant(self, name: str, start: int, stop: int) -> None:
        """A fact that questions may be about."""
        self._facts[name] = (start, stop)

    def ask(self, question_tokens: int) -> None:
        """The newest so many tokens are a question that is asked now; 0: nothing is asked."""
        self._question_tokens = question_tokens

    def want(self, about: str | None) -> None:
        """The fact that matters from now on (ground truth for the ``oracle`` lens), or none."""
        self._wanted = None if about is None else self._facts.get(about)

    def begin(self, layout: Layout) -> None:
        """A refocus starts over ``layout``: measure attention where the lens asks for it."""
        if self._measures_attention and len(layout.levels):
            mass_n = self._parts.window.attention_mass(layout, self._query_tokens).mean(axis=0)
            starts = self._parts.focus.working_context.starts
            self._mass = np.append(starts, layout.tail_start), mass_n

    def observe(self, step: int, number: int) -> Observation:
        """The observation of round ``number`` of refocus ``step``."""
        parts, context = self._parts, self._parts.focus.working_context
        wanted = None if self._wanted is None else np.array([self._wanted], np.int64)
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
            wanted=wanted,
        )

    def _attention(self) -> np.ndarray | None:
        """Mass of each present frontier entry; a row's mass spreads evenly over its tokens."""
        if self._mass is None:
            return None
        edges, mass = self._mass
        context = self._parts.focus.working_context
        total = np.concatenate([[0.0], np.cumsum(mass, dtype=np.float64)])
        ends = np.append(context.starts, context.n_tokens - context.tail_tokens)
        pooled: np.ndarray = np.diff(np.interp(ends, edges, total)).astype(np.float32)
        return pooled
