"""The blocks that are read along with a selected one: a fact may straddle blocks.

The block before is read, and a number of blocks behind. A word that the last of them cuts, such as
an identifier of 36 characters, is read to its end: half a value is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from megacontext.core.focus.actions import Bools
from megacontext.core.model.base import BaseModel
from megacontext.core.tree.spec import U32

__all__ = ["cuts_word", "neighbour_runs"]

_MAX_MORE = 3
"""Blocks at most that are read to finish a word."""
_IN_WORD = "-_"
"""Characters beside letters and digits that go on with a word."""


def neighbour_runs(
    selected: Bools, after: int, block_size: int, cuts: Callable[[int], bool]
) -> dict[int, range]:
    """For each selected block, the run of blocks that is read with it, itself included.

    Args:
        selected: bool[blocks].
        after: blocks behind a selected one that are always read.
        cuts: whether a block that ends at this position cuts a word.
    """
    runs = {}
    for block in np.flatnonzero(selected).tolist():
        stop = min(len(selected), block + after + 1)
        longest = min(len(selected), stop + _MAX_MORE)
        while stop < longest and cuts(stop * block_size):
            stop += 1
        runs[block] = range(max(0, block - 1), stop)
    return runs


def cuts_word(base: BaseModel, tokens: Callable[[int, int], U32]) -> Callable[[int], bool]:
    """Tells whether the token at a position goes on with the word of the token before it.

    Args:
        base: the model whose tokenizer says what the tokens spell; without one no word is known.
        tokens: ids [start, stop) of the history.
    """
    if not base.has_tokenizer:
        return lambda position: False

    def cuts(position: int) -> bool:
        before, after = (int(token) for token in tokens(position - 1, position + 1))
        text = base.tokenizer.decode([before])
        more = base.tokenizer.decode([before, after])[len(text) :]
        goes_on = more[:1].isalnum() or more[:1] in _IN_WORD
        return bool(text and more and not text[-1].isspace() and goes_on)

    return cuts
