"""What the lens gets to see: the frontier, the newest tokens, surprisal, attention, truth."""

from __future__ import annotations

import numpy as np

from megacontext.core.lenses import Observation
from megacontext.core.model.layout import Layout
from megacontext.core.runtime.parts import Parts

__all__ = ["Observer"]


class Observer:
    """Keeps what a lens may ask for and gives it out as an :class:`Observation` per round."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._query = np.empty(0, np.uint32)
        self._nll = np.full(1024, np.nan, np.float32)
        self._facts: dict[str, tuple[int, int]] = {}
        self._wanted: tuple[int, int] | None = None
        self._mass: tuple[np.ndarray, np.ndarray] | None = None

    def warm_up(self) -> None:
        """Take the query from a history that is there already."""
        n_tokens, tree = self._parts.focus.working_context.n_tokens, self._parts.tree
        start = max(0, n_tokens - self._parts.config.lens.query_tokens)
        self._query = np.array(tree.tokens(start, n_tokens))

    def tokens(self, tokens: np.ndarray, nll: np.ndarray, start: int) -> None:
        """New history from position ``start``: uint32 [t] and their NLL, float32 [t] nats."""
        stop = start + len(tokens)
        while stop > len(self._nll):
            self._nll = np.concatenate([self._nll, np.full_like(self._nll, np.nan)])
        self._nll[start:stop] = nll
        keep = self._parts.config.lens.query_tokens
        self._query = np.concatenate([self._query, tokens])[-keep:]

    def plant(self, name: str, start: int, stop: int) -> None:
        """A fact that questions may be about."""
        self._facts[name] = (start, stop)

    def want(self, about: str | None) -> None:
        """The fact that matters from now on (ground truth for the ``oracle`` lens), or none."""
        self._wanted = None if about is None else self._facts.get(about)

    def begin(self, layout: Layout) -> None:
        """A refocus starts over ``layout``: measure attention where the lens asks for it."""
        if self._parts.lens.name == "attention" and len(layout.levels):
            queries = self._parts.config.lens.query_tokens
            mass_n = self._parts.window.attention_mass(layout, queries).mean(axis=0)
            starts = self._parts.focus.working_context.starts
            self._mass = np.append(starts, layout.tail_start), mass_n

    def observe(self, step: int, number: int) -> Observation:
        """The observation of round ``number`` of refocus ``step``."""
        parts, context = self._parts, self._parts.focus.working_context
        last = parts.window.last
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
            query_hidden=None if last is None else last.hidden,
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
