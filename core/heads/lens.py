"""The lens: at a question, what the model's own heads attend to in the whole history."""

from __future__ import annotations

import numpy as np

from megacontext.core.focus.actions import F32
from megacontext.core.heads.history_keys import HistoryKeys
from megacontext.core.heads.lookup import Lookup, Match, Pair, look_up
from megacontext.core.lenses.base import LensNeeds, Observation, TreeView
from megacontext.core.lenses.blocks import pool_blocks, recency_prior
from megacontext.traces.row import PAIR_DTYPE

__all__ = ["HeadsLens", "Match", "Pair"]

_SINK_SCORE = 0.15
"""Of the first block, raw: the attention sink that a model was trained with goes last."""
_SINK_HIDDEN = 0.6
"""Of the gist over the first block: without its sink a model attends to whatever comes first."""
_GIVE_WAY = -0.5
"""Of raw blocks that the question does not need, which a model may take for the answer."""
_NEIGHBOUR = 0.9


class HeadsLens:
    """Scores from the attention of calibrated heads; see :mod:`megacontext.core.heads`.

    At a question a block's strength is its attention over the best block's, averaged over the
    heads. Blocks at or above ``margin`` are expanded, at most ``max_blocks``, each with the
    blocks of its matched sentences. An example of such a question is read whole. All
    other raw blocks but the newest give way: a model reads an answer best where little else is
    in its window. A question that finds nothing changes nothing. Between questions nothing is
    asked, and scores are a recency prior.

    Args:
        keys: the history's keys, and what reads them.
        newest: blocks before the question that stay raw, whatever it asks.
    """

    name = "heads"
    requires = LensNeeds()

    def __init__(self, keys: HistoryKeys, newest: int = 10) -> None:
        self.keys = keys
        self._newest = newest
        self.encoder = keys.encoder
        self._lookup: Lookup | None = None

    @property
    def matches(self) -> tuple[Match, ...]:
        """Why the newest question's blocks were selected, best first."""
        return () if self._lookup is None else self._lookup.matches

    def score_pairs(self) -> np.ndarray:
        """See :class:`~megacontext.core.lenses.base.ExplainsScores`."""
        rows = [
            (match.block, pair.query_token, pair.block_token, pair.layer, pair.head, pair.weight)
            for match in self.matches
            for pair in match.pairs
        ]
        return np.array(rows, PAIR_DTYPE)

    def block_scores(self) -> F32 | None:
        """Strength of every block at the newest question, F32[blocks]; None before one."""
        return None if self._lookup is None else self._lookup.strength

    def score(self, observation: Observation) -> F32:
        """See :class:`~megacontext.core.lenses.base.Lens`."""
        scores = recency_prior(observation)
        if len(scores) == 0:
            return scores
        scores[0] = max(scores[0], _SINK_SCORE if observation.levels[0] == 0 else _SINK_HIDDEN)
        if observation.tree is None:
            return scores
        if observation.question_tokens == 0:
            self.keys.follow_along(observation.tree.tokens, observation.n_tokens)
            return scores
        lookup = self._look_up(observation, observation.tree)
        return self._scores(scores, lookup, observation)

    def _scores(self, prior: F32, lookup: Lookup, observation: Observation) -> F32:
        """Frontier scores F32[n] of a question."""
        closed = (observation.n_tokens - observation.tail_tokens) // observation.block_size
        blocks = np.zeros(closed, np.float32)
        known = min(closed, len(lookup.strength))
        selected = np.flatnonzero(lookup.selected[:known])

        # Selected blocks lie above any threshold in their own order, what is read along just below.
        blocks[selected] = 0.5 + 0.5 * lookup.strength[selected]
        for block, score in zip(selected.tolist(), blocks[selected], strict=True):
            run = lookup.runs[block]
            near = blocks[run.start : run.stop]
            np.maximum(near, _NEIGHBOUR * score, out=near)
        example = np.flatnonzero(lookup.example[:known])
        blocks[example] = np.maximum(blocks[example], 0.5)
        if len(selected):
            blocks[0] = max(blocks[0], 0.5)  # the sink is read along with what is expanded
        scores = np.maximum(prior, pool_blocks(blocks, observation))
        if not len(selected):
            return scores

        # What is raw without being selected gives way, but for the newest blocks.
        raw = observation.levels == 0
        number = observation.starts // observation.block_size
        before = observation.n_tokens - observation.question_tokens
        first_newest = before // observation.block_size - self._newest
        scores[raw & (blocks[number] == 0) & (number < first_newest)] = _GIVE_WAY
        return scores

    def _look_up(self, observation: Observation, tree: TreeView) -> Lookup:
        """The question's blocks; rounds of one refocus share them."""
        n_tokens, question = observation.n_tokens, observation.question_tokens
        latest = self._lookup
        if latest is None or (latest.n_tokens, latest.question_tokens) != (n_tokens, question):
            latest = look_up(self.keys, tree.tokens, n_tokens, question, observation.block_size)
            self._lookup = latest
        return latest
