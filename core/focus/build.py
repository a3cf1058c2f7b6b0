"""The one place that puts a working context and a focus together."""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.core.focus.actions import I64
from megacontext.core.focus.focus import Focus
from megacontext.core.focus.view import Allocator, Limits
from megacontext.core.focus.working_context import WorkingContext

__all__ = ["ContextShape", "make_focus"]


@dataclass(frozen=True)
class ContextShape:
    """The sizes of a working context.

    Args:
        block_size: tokens of a block, K.
        max_levels: highest gist level.
        w_max: entries, the budget.
        protected_blocks: newest blocks that stay raw.
    """

    block_size: int
    max_levels: int
    w_max: int
    protected_blocks: int


def make_focus(
    shape: ContextShape,
    allocator: Allocator,
    limits: Limits | None = None,
    seed: int = 0,
    *,
    n_tokens: int = 0,
    levels: I64 | None = None,
) -> Focus:
    """A focus over a history of ``n_tokens``.

    Args:
        levels: I64[n] of the frontier, oldest first; None: newest blocks raw, then gists.

    Raises:
        BudgetError: the history is too long for this budget and number of levels.
    """
    context = WorkingContext(
        shape.block_size, shape.max_levels, shape.w_max, shape.protected_blocks
    )
    if levels is not None:
        context.load(levels, n_tokens)
    elif n_tokens:
        context.cold_start(n_tokens)
    return Focus(context, allocator, limits or Limits(), seed)
