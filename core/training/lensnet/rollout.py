"""Rollouts over a batch of states: the allocator's actions under a lens's scores.

The working context, the allocator and its limits are those of a session's refocus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from megacontext.core.allocators import make_allocator
from megacontext.core.config import FocusConfig
from megacontext.core.focus import ContextShape, Limits, make_focus
from megacontext.core.focus.limits import limits_for
from megacontext.core.lensnet.lens import legal_scores
from megacontext.traces.schema import Trigger

__all__ = ["MAX_LEVELS", "PLAIN", "PROTECTED", "QUESTION", "cold_levels", "pad_rows", "rollout"]

MAX_LEVELS = 4
QUESTION = limits_for(FocusConfig(), Trigger.QUESTION)
PLAIN = limits_for(FocusConfig(), Trigger.BLOCK_CLOSED)
PROTECTED = FocusConfig().protected_blocks

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(levels, index) int64[R, N], padding -1, to scores float32[R, N]."""


def cold_levels(n_tokens: int, w_max: int, block_size: int) -> np.ndarray:
    """Levels of the frontier with which a session over an existing history starts."""
    shape = ContextShape(block_size, MAX_LEVELS, w_max, PROTECTED)
    focus = make_focus(shape, make_allocator("greedy"), n_tokens=n_tokens)
    return focus.working_context.levels.astype(np.int64)


def pad_rows(rows: Sequence[np.ndarray], fill: int) -> np.ndarray:
    """Rows of unequal lengths as int64[R, N]."""
    max_length = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, max_length - len(row)), constant_values=fill) for row in rows])


def rollout(
    score: Scorer,
    levels: Sequence[np.ndarray],
    n_tokens: Sequence[int],
    w_max: Sequence[int],
    block_size: int,
    rounds: int,
    limits: Limits = QUESTION,
) -> tuple[np.ndarray, np.ndarray]:
    """Frontiers after up to ``rounds`` rounds: (levels, index) int64[R, N], padding -1.

    A refocus that has settled or used its rounds is followed by the next one. A state is final if
    a new refocus settles in its first round.

    Args:
        levels: of each state's frontier, oldest first. n_tokens: of each history.
        w_max: budget of each state.
    """
    focuses = []
    for row_levels, tokens, budget in zip(levels, n_tokens, w_max, strict=True):
        shape = ContextShape(block_size, MAX_LEVELS, int(budget), PROTECTED)
        greedy = make_allocator("greedy")
        focuses.append(make_focus(shape, greedy, limits, n_tokens=int(tokens), levels=row_levels))
        focuses[-1].begin(Trigger.QUESTION)

    # All states are scored together, as one batch a round.
    is_settled = [False] * len(focuses)
    for _ in range(rounds):
        if all(is_settled):
            break
        contexts = [focus.working_context for focus in focuses]
        padded_levels = pad_rows([c.levels.astype(np.int64) for c in contexts], -1)
        scores = score(padded_levels, pad_rows([c.index for c in contexts], 0))
        for row, focus in enumerate(focuses):
            if is_settled[row]:
                continue
            context = contexts[row]
            row_levels = scores[row, : len(context)]
            result = focus.round(
                legal_scores(row_levels, context.levels, context.index, block_size)
            )
            if result.last:
                is_settled[row] = result.settled and result.round == 0
                focus.begin(Trigger.QUESTION)

    contexts = [focus.working_context for focus in focuses]
    return (
        pad_rows([c.levels.astype(np.int64) for c in contexts], -1),
        pad_rows([c.index for c in contexts], 0),
    )
