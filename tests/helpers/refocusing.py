"""A focus over a frontier given by its levels, and actions as plain tuples."""

from megacontext.core.allocators import make_allocator
from megacontext.core.focus import Focus, Limits, WorkingContext

__all__ = ["focus_on", "reasons", "seen"]


def focus_on(levels, w_max=60, size=4, max_levels=3, protected=1, **limits):
    """A greedy focus on a frontier of ``levels``, oldest first."""
    n_tokens = sum(size ** max(level, 1) for level in levels)
    context = WorkingContext.from_levels(
        levels,
        n_tokens,
        block_size=size,
        max_levels=max_levels,
        w_max=w_max,
        protected_blocks=protected,
    )
    return Focus(context, make_allocator("greedy"), Limits(**limits))


def seen(actions):
    """(kind, level, index) of each action."""
    return [(int(a["kind"]), int(a["level"]), int(a["index"])) for a in actions]


def reasons(actions):
    """Why, by (kind, level, index)."""
    return dict(zip(seen(actions), (int(a["reason"]) for a in actions), strict=True))
