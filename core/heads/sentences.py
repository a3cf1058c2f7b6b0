"""The blocks that are read along with a selected one: those of the sentences that matched.

A fact is a sentence, and often the next says its value. What else stands in the blocks around
is in the model's way: the fewer words beside an answer, the surer it is read
(docs/lab/2026-12-01-words-and-sentences.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from megacontext.core.model.base import BaseModel
from megacontext.core.tree.spec import U32

__all__ = ["sentence_runs"]

_SENTENCES = 2
"""Read from a matched token on: its own sentence and those behind it."""
_BEFORE, _AFTER = 2, 4
"""Blocks around a selected one in which sentences are looked for."""
_END = re.compile(r"[.!?][\"')\]]*\s|\n")


def sentence_runs(
    base: BaseModel,
    tokens: Callable[[int, int], U32],
    attended: Mapping[int, Sequence[int]],
    otherwise: Mapping[int, range],
    n_blocks: int,
    block_size: int,
) -> dict[int, range]:
    """For each selected block, the run of blocks that is read with it, itself included.

    Args:
        base: its tokenizer says where a sentence ends; without one there are none.
        tokens: ids [start, stop) of the history.
        attended: by selected block, positions of the tokens that matched.
        otherwise: the run of a block around which no sentence begins or ends.
        n_blocks: of the history.
    """
    if not base.has_tokenizer:
        return {block: otherwise[block] for block in attended}
    runs = {}
    for block, positions in attended.items():
        # Ends of the sentences around the block, in characters of its surroundings.
        first = max(0, block - _BEFORE) * block_size
        stop = min(n_blocks, block + _AFTER) * block_size
        pieces = base.tokenizer.pieces(np.asarray(tokens(first, stop)))
        char_ends = np.cumsum([len(piece) for piece in pieces])
        sentence_ends = np.array([m.end() for m in _END.finditer("".join(pieces))], np.int64)

        # From the first matched sentence to the last one that is read.
        lowest, highest = block, block + 1
        for position in positions:
            char = char_ends[position - first] - 1
            n_before = int(np.searchsorted(sentence_ends, char, side="right"))
            starts, stops = otherwise[block].start, otherwise[block].stop
            if n_before > 0:
                token = np.searchsorted(char_ends, sentence_ends[n_before - 1], side="right")
                starts = (first + int(token)) // block_size
            if n_before + _SENTENCES <= len(sentence_ends):
                last_char = sentence_ends[n_before + _SENTENCES - 1] - 1
                token = np.searchsorted(char_ends, last_char, side="right")
                stops = (first + int(token)) // block_size + 1
            lowest, highest = min(lowest, starts), max(highest, stops)
        runs[block] = range(lowest, min(n_blocks, highest))
    return runs
