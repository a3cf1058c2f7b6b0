"""States from rows: what a frontier costs, what actions do to it, and whether a row is legal.

Written from the trace's contract alone (``docs/formats.md``), independent of the engine, so that
it can judge the engine's traces.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from megacontext.traces.errors import PlanError
from megacontext.traces.row import TraceRow
from megacontext.traces.schema import ActionKind, Reason, Trigger

__all__ = [
    "apply_action",
    "apply_actions",
    "cost_of",
    "index_of",
    "spans_of",
    "starts_of",
    "state_after",
    "states",
    "violations_of",
]


def spans_of(levels: np.ndarray, block_size: int) -> np.ndarray:
    """I64[n]: tokens that each frontier node covers (a raw block: K)."""
    widths = np.int64(block_size) ** np.arange(64 // (block_size.bit_length() - 1))
    spans: np.ndarray = widths[np.maximum(levels, 1)]
    return spans


def starts_of(levels: np.ndarray, block_size: int) -> np.ndarray:
    """I64[n]: first token of each frontier node; the frontier tiles from token 0."""
    spans = spans_of(levels, block_size)
    starts: np.ndarray = np.cumsum(spans) - spans
    return starts


def index_of(levels: np.ndarray, block_size: int) -> np.ndarray:
    """I64[n]: node index of each frontier node within its level."""
    index: np.ndarray = starts_of(levels, block_size) // spans_of(levels, block_size)
    return index


def cost_of(levels: np.ndarray, block_size: int, tail_tokens: int) -> int:
    """Entries that the frontier and the tail take in the working context."""
    return len(levels) + (block_size - 1) * int(np.count_nonzero(levels == 0)) + tail_tokens


def apply_action(
    levels: np.ndarray, kind: int, level: int, index: int, block_size: int
) -> np.ndarray:
    """The frontier after one action; ``levels`` stays as it is.

    Expanding gist (level, index) puts its K children (level 1: its raw block) in its place;
    collapsing is the reverse.

    Raises:
        PlanError: the action is impossible here; the sentence says why.
    """
    name = f"{ActionKind(kind).name.lower()} L{level}@{index}"
    if level < 1 or block_size ** max(level, 1) > 2**62:
        raise PlanError(f"{name}: the level is out of range; actions name gists.")
    starts = starts_of(levels, block_size)
    start = index * block_size**level
    at = int(np.searchsorted(starts, start))
    if at >= len(levels) or starts[at] != start:
        raise PlanError(f"{name}: no frontier node starts at token {start}.")
    count = 1 if level == 1 else block_size
    if kind == ActionKind.EXPAND:
        if levels[at] != level:
            raise PlanError(f"{name}: the frontier has L{levels[at]} there.")
        removed, added = 1, np.full(count, level - 1, levels.dtype)
    else:
        children = levels[at : at + count]
        if len(children) < count or (children != level - 1).any():
            raise PlanError(f"{name}: its children are not all in the frontier.")
        removed, added = count, np.array([level], levels.dtype)
    return np.concatenate([levels[:at], added, levels[at + removed :]])


def apply_actions(levels: np.ndarray, actions: np.ndarray, block_size: int) -> np.ndarray:
    """The frontier after ``actions`` (ACTION_DTYPE) in order; PlanError as in apply_action."""
    for action in actions:
        kind, level, index = int(action["kind"]), int(action["level"]), int(action["index"])
        levels = apply_action(levels, kind, level, index, block_size)
    return levels


def states(row: TraceRow, block_size: int) -> Iterator[np.ndarray]:
    """The scored frontier of ``row``, then the frontier after each of its actions."""
    levels = row.levels
    yield levels
    for j in range(len(row.actions)):
        levels = apply_actions(levels, row.actions[j : j + 1], block_size)
        yield levels


def state_after(row: TraceRow, block_size: int) -> np.ndarray:
    """The frontier that ``row`` leaves; the next row continues from it."""
    return apply_actions(row.levels, row.actions, block_size)


def violations_of(row: TraceRow, block_size: int, previous: TraceRow | None = None) -> list[str]:
    """Every broken invariant of ``row`` as a sentence; empty when it is legal.

    Checks tiling, alignment, one score per node, legality and cost of each action, the budget
    after every action, headroom, ``budget_used`` and, given the row before, continuity.
    """
    problems = _check_frontier(row, block_size)
    if not problems:
        problems = _check_actions(row, block_size)
    if previous is not None and not problems:
        problems = _check_continuity(row, previous, block_size)
    return [f"step {row.step} round {row.round}: {problem}" for problem in problems]


def _check_frontier(row: TraceRow, block_size: int) -> list[str]:
    levels = row.levels
    if (levels < 0).any() or (levels > 62 // (block_size.bit_length() - 1)).any():
        return ["levels has a value outside the tree."]

    problems = []

    # The nodes must tile the history without gap, each at a multiple of its span.
    spans, starts = spans_of(levels, block_size), starts_of(levels, block_size)
    covered = int(spans.sum()) + row.tail_tokens
    if covered != row.history_tokens:
        problems.append(
            f"tiling: frontier and tail cover {covered} tokens of {row.history_tokens}."
        )
    off = np.flatnonzero(starts % spans)
    if len(off):
        first = int(off[0])
        problems.append(
            f"alignment: node {first} (L{levels[first]}) starts at token {starts[first]},"
            f" no multiple of {spans[first]}."
        )

    if not 0 <= row.tail_tokens < block_size:
        problems.append(f"tail: {row.tail_tokens} tokens are no incomplete block of {block_size}.")
    if row.scores is not None and len(row.scores) != len(levels):
        problems.append(f"scores: {len(row.scores)} values for {len(levels)} nodes.")
    return problems


def _check_actions(row: TraceRow, block_size: int) -> list[str]:
    cost = cost_of(row.levels, block_size, row.tail_tokens)
    # A lowered w_max is obeyed at once, by the collapses of its own refocus.
    cutting = row.trigger == Trigger.BUDGET_CUT or bool(
        (row.actions["reason"] == Reason.BUDGET_CUT).any()
    )
    if cost > row.w_max and not cutting:
        return [f"budget: the scored frontier costs {cost} of {row.w_max}."]
    levels = row.levels
    for j, action in enumerate(row.actions):
        kind = int(action["kind"])
        try:
            levels = apply_actions(levels, row.actions[j : j + 1], block_size)
        except (PlanError, ValueError) as error:
            return [f"action {j}: {error}"]
        change = (block_size - 1) * (1 if kind == ActionKind.EXPAND else -1)
        cost += change
        if int(action["cost"]) != change:
            return [f"action {j}: cost says {action['cost']}, it is {change}."]
        if cost > row.w_max and not (cutting and kind == ActionKind.COLLAPSE):
            return [f"action {j}: budget: {cost} entries of {row.w_max}."]
    problems = []
    if cost != row.budget_used:
        problems.append(f"budget_used says {row.budget_used}, the state costs {cost}.")
    if cost > row.w_max:
        problems.append(f"budget: the refocus ends at {cost} entries of {row.w_max}.")
    elif row.w_max - cost < block_size:
        problems.append(
            f"headroom: {row.w_max - cost} entries are free, the next block needs {block_size}."
        )
    return problems


def _check_continuity(row: TraceRow, previous: TraceRow, block_size: int) -> list[str]:
    before = state_after(previous, block_size)
    grown = row.history_tokens - previous.history_tokens
    problems = []
    if row.step == previous.step:
        if row.round != previous.round + 1:
            problems.append(f"order: round {row.round} follows round {previous.round}.")
        if len(row.new_tokens) or len(row.appended_levels) or grown:
            problems.append("continuity: only round 0 may append tokens.")
    elif row.step != previous.step + 1 or row.round != 0:
        problems.append(f"order: it follows step {previous.step} round {previous.round}.")
    if len(row.new_tokens) != grown:
        problems.append(
            f"continuity: the history grew by {grown} tokens, new_tokens has {len(row.new_tokens)}."
        )
    if not np.array_equal(row.levels, np.concatenate([before, row.appended_levels])):
        problems.append("continuity: levels is not the previous row's state plus appended_levels.")
    return problems
