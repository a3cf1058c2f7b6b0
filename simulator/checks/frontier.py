"""A second, naive frontier: the checkers' own idea of what the working context holds.

It is written from the text of the invariants and shares no code with ``core``: a byte string of
levels and arrays of indices and starts, changed by splicing. Each legal edit keeps the tiling by
construction, so comparing its bytes with the product's arrays checks tiling, alignment and
atomicity after every action; :func:`check_arrays` derives the same from the arrays alone, every
few times, which says that the splicing itself is right.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

import numpy as np

from megacontext.simulator.checks.invariant import InvariantError, require

__all__ = ["Shadow", "check_arrays"]

_DERIVED_EVERY = 8


class Shadow:
    """The frontier and the tail as a model. Sizes in tokens, cost in entries."""

    def __init__(self, block_size: int, max_levels: int) -> None:
        self.block_size, self.max_levels = block_size, max_levels
        self.levels = bytearray()
        self.index: array[int] = array("q")
        self.starts: array[int] = array("q")
        self.covered = 0
        self.n_tokens = 0
        self.compared = 0  # how often the product's arrays were compared with these
        self.frontier_cost = 0
        self.width = [block_size ** max(1, level) for level in range(max_levels + 1)]

    @property
    def tail(self) -> int:
        return self.n_tokens - self.covered

    @property
    def cost(self) -> int:
        return self.frontier_cost + self.n_tokens - self.covered

    @property
    def n_blocks(self) -> int:
        return self.n_tokens // self.block_size

    def reset(self, levels: Iterable[int], n_tokens: int) -> None:
        """Start over from ``levels`` (a cold start or a recovery), which must tile."""
        self.levels, self.index, self.starts = bytearray(), array("q"), array("q")
        self.covered = self.frontier_cost = 0
        self.n_tokens = 0
        self.append(n_tokens, levels)

    def append(self, n_tokens: int, appended: Iterable[int]) -> None:
        """``n_tokens`` arrived and ``appended`` entered at the frontier's end."""
        self.n_tokens += n_tokens

        # Each node must be of a known level and start at a multiple of its width.
        for level in appended:
            if not 0 <= level <= self.max_levels:
                raise InvariantError(
                    "antichain", f"level {level} entered; the tree has no such level"
                )
            width = self.width[level]
            if self.covered % width:
                raise InvariantError(
                    "alignment", f"a level-{level} node entered at token {self.covered}"
                )
            self.levels.append(level)
            self.index.append(self.covered // width)
            self.starts.append(self.covered)
            self.covered += width
            self.frontier_cost += self.block_size if level == 0 else 1

        # What is not covered yet is the tail: less than one block.
        require(
            0 <= self.n_tokens - self.covered < self.block_size,
            "tiling",
            f"the frontier covers {self.covered} of {self.n_tokens} tokens after an append",
        )

    def expand(self, level: int, index: int) -> None:
        """The gist (level, index) gives way to its K children."""
        at = self._find(level, index, level)
        if level == 1:
            self.levels[at] = 0  # the block has its gist's index
        else:
            start, width, first = self.starts[at], self.width[level], index * self.block_size
            self.levels[at : at + 1] = bytes((level - 1,)) * self.block_size
            self.index[at : at + 1] = array("q", range(first, first + self.block_size))
            self.starts[at : at + 1] = array(
                "q", range(start, start + width, self.width[level - 1])
            )
        self.frontier_cost += self.block_size - 1

    def collapse(self, level: int, index: int) -> None:
        """The K children of (level, index) give way to it."""
        at = self._find(level, index, level - 1)
        if level == 1:
            self.levels[at] = 1
        else:
            size = self.block_size
            if self.levels[at : at + size] != bytes((level - 1,)) * size:
                raise InvariantError(
                    "atomic", f"({level}, {index}) collapsed without all its children"
                )
            self.levels[at : at + size] = bytes((level,))
            self.index[at : at + size] = array("q", (index,))
            self.starts[at : at + size] = array("q", (self.starts[at],))
        self.frontier_cost -= self.block_size - 1

    def at(self, level: int, index: int) -> int:
        """Position of the entry (level, index), or -1."""
        if not 0 <= level <= self.max_levels:
            return -1
        start = index * self.width[level]
        at = bisect_left(self.starts, start)
        if at < len(self.starts) and self.starts[at] == start and self.levels[at] == level:
            return at
        return -1

    def _find(self, level: int, index: int, present: int) -> int:
        if not 1 <= level <= self.max_levels:
            raise InvariantError("antichain", f"an action on level {level}, which holds no gists")
        start = index * self.width[level]
        at = bisect_left(self.starts, start)
        if at == len(self.starts) or self.starts[at] != start or self.levels[at] != present:
            raise InvariantError(
                "atomic" if present < level else "antichain",
                f"an action on ({level}, {index}), but no level-{present} entry starts at {start}",
            )
        return at


def check_arrays(shadow: Shadow, levels: np.ndarray, index: np.ndarray, starts: np.ndarray) -> None:
    """The product's arrays say what the shadow says, and are a tiling by themselves.

    The latter is derived anew at the first of every ``_DERIVED_EVERY`` comparisons.

    Args:
        levels, index, starts: I8[n], I64[n], I64[n] of the working context.
    """
    if levels.tobytes() != bytes(shadow.levels):
        raise InvariantError(
            "tiling", f"levels {levels.tolist()} but the edits gave {shadow.levels!r}"
        )
    if starts.tobytes() != shadow.starts.tobytes():
        raise InvariantError("tiling", f"starts {starts.tolist()} do not follow from the edits")
    if index.tobytes() != shadow.index.tobytes():
        raise InvariantError("alignment", f"index {index.tolist()} do not follow from the edits")

    shadow.compared += 1
    if levels.size == 0 or shadow.compared % _DERIVED_EVERY != 1:
        return
    width = np.asarray(shadow.width, np.int64)[levels]
    if starts[0] != 0 or not np.array_equal(np.cumsum(width)[:-1], starts[1:]):
        raise InvariantError("tiling", f"levels {levels.tolist()} and starts {starts.tolist()} gap")
    if not np.array_equal(index * width, starts):
        raise InvariantError(
            "alignment", f"index {index.tolist()} and starts {starts.tolist()} differ"
        )
