"""What a stream is: seeded tokens, and the ground truth of which blocks matter when.

Time is counted in closed blocks. ``targets(n)`` is the truth while the history holds ``n`` complete
blocks. Everything is a function of the seed, so any moment can be asked for in any order; the one
exception, ``anti_policy``, reacts to what the allocator did and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from megacontext.core.rng import generator

__all__ = ["EMPTY", "Stream", "StreamSpec", "Truth", "truth"]

_PAGE = 4096
"""Tokens drawn at once."""

_ROWS = 4096
"""Rows of the table of uniform draws; a schedule starts over after as many epochs."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Blocks that matter now.

    Args:
        blocks: I64[m], ascending, without doubles, all complete.
        weights: F32[m] in (0, 1].
    """

    blocks: np.ndarray
    weights: np.ndarray


EMPTY = Truth(np.empty(0, np.int64), np.empty(0, np.float32))


def truth(blocks: ArrayLike, weights: ArrayLike, n_blocks: int) -> Truth:
    """A :class:`Truth` from any blocks: sorted, doubles merged by maximum, incomplete ones out."""
    at = np.asarray(blocks, np.int64)
    weight = np.broadcast_to(np.asarray(weights, np.float32), at.shape)
    best: dict[int, float] = {}
    for block, value in zip(at.tolist(), weight.tolist(), strict=True):
        if 0 <= block < n_blocks:
            best[block] = max(value, best.get(block, 0.0))
    if not best:
        return EMPTY
    order = sorted(best)
    return Truth(np.array(order, np.int64), np.array([best[b] for b in order], np.float32))


@dataclass(frozen=True)
class StreamSpec:
    """What every stream is made from. Sizes in tokens, ``w_max`` in entries."""

    seed: int
    block_size: int
    w_max: int
    vocab_size: int = 4096
    recording: str | None = None


@dataclass
class Stream:
    """Base of all streams; a subclass says which blocks matter."""

    spec: StreamSpec
    name: ClassVar[str] = ""
    _pages: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """U32[stop - start]: the history's tokens, the same however they are asked for."""
        first, last = start // _PAGE, max(start, stop - 1) // _PAGE
        pages = [self._page(number) for number in range(first, last + 1)]
        joined = pages[0] if len(pages) == 1 else np.concatenate(pages)
        return joined[start - first * _PAGE : stop - first * _PAGE]

    def _page(self, number: int) -> np.ndarray:
        if number not in self._pages:
            self._pages[number] = _tokens(self.spec.seed, number, self.spec.vocab_size)
        return self._pages[number]

    def targets(self, n_blocks: int) -> Truth:
        """The ground truth while the history holds ``n_blocks`` complete blocks."""
        raise NotImplementedError

    def markers(self, n_blocks: int) -> tuple[str, ...]:
        """What a person would note in the trace when block ``n_blocks - 1`` closed."""
        return ()

    def observe(self, collapsed: list[tuple[int, int]]) -> None:
        """The (level, index) of the gists that the last round made; most streams do not care."""

    @cached_property
    def _table(self) -> np.ndarray:
        return _draws(self.spec.seed, self.name)

    def draw(self, epoch: int) -> np.ndarray:
        """F64[16] in [0, 1): the random numbers of one epoch of the schedule."""
        row: np.ndarray = self._table[epoch % _ROWS]
        return row

    @property
    def raw_blocks(self) -> int:
        """Raw blocks that the budget can hold at most."""
        return max(1, self.spec.w_max // self.spec.block_size)


# Many short worlds have one seed, and drawing these costs more than such a world.
@lru_cache(maxsize=16)
def _tokens(seed: int, page: int, vocab_size: int) -> np.ndarray:
    tokens = generator(seed, "stream.tokens", page).integers(0, vocab_size, _PAGE, np.uint32)
    tokens.flags.writeable = False
    return tokens


@lru_cache(maxsize=16)
def _draws(seed: int, name: str) -> np.ndarray:
    table = generator(seed, f"stream.{name}").random((_ROWS, 16))
    table.flags.writeable = False
    return table
