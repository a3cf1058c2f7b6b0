"""Samples the part of a long history that a training window shows.

A window under MegaContext shows some blocks of the history raw; the others are missing (*gappy*)
or replaced by one entry each (*coarse*). In training text a coarse entry is one token, the rarest
of its block, as :class:`megacontext.core.gistnet.rarest_token.TokenGister` chooses it. So a model
learns that single tokens of a window may stand for whole blocks. ``CoarseEntries`` holds the text
that they replace, for a trainer that uses the gists of a GistNet instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "GROUP",
    "CoarseEntries",
    "CoarseWindow",
    "coarse_mask",
    "coarse_window",
    "distractor_blocks",
    "gappy_mask",
    "rarest_in_blocks",
]

GROUP = 32  # blocks under one level-2 gist

Rng = np.random.Generator


def rarest_in_blocks(tokens: np.ndarray, block: int) -> np.ndarray:
    """Position of the rarest token (the last of the highest id) of each whole block."""
    whole = len(tokens) // block
    grid = tokens[: whole * block].reshape(whole, block)
    positions: np.ndarray = np.arange(1, whole + 1) * block - 1 - np.argmax(grid[:, ::-1], axis=1)
    return positions


def gappy_mask(rng: Rng, blocks: int, gold_blocks: set[int], target: int) -> np.ndarray:
    """Blocks to keep, bool [blocks]: the gold ones and short runs of others.

    Exactly ``target`` of them, unless there are fewer blocks or more gold ones.
    """
    keep_mask = np.zeros(blocks, bool)
    keep_mask[list(gold_blocks)] = True
    while int(keep_mask.sum()) < target and not keep_mask.all():
        start = int(rng.integers(blocks))
        keep_mask[start : start + int(rng.integers(1, 5))] = True
    # Runs may overshoot: drop blocks that no question needs.
    remaining = np.array(
        [b for b in np.flatnonzero(keep_mask) if int(b) not in gold_blocks], np.int64
    )
    extra = int(keep_mask.sum()) - target
    if extra > 0:
        keep_mask[rng.permutation(remaining)[:extra]] = False
    return keep_mask


def distractor_blocks(
    rng: Rng, fact_spans: list[tuple[int, int]], gold_blocks: set[int], blocks: int, max_blocks: int
) -> set[int]:
    """Blocks of other facts that are raw in addition to the gold ones.

    A lens also expands facts that resemble the asked one. So none, some or all other facts of a
    window are raw, most of them completely, some with one of their blocks only.

    Args:
        fact_spans: blocks [start, stop) of every fact, the asked ones included.
        blocks: blocks from this index on belong to the raw tail, and are left out.
        max_blocks: maximum number of raw blocks.
    """
    fraction = float(rng.choice([0.0, 0.4, 1.0, 1.0]))
    distractors: set[int] = set()
    for fact in rng.permutation(len(fact_spans)).tolist():
        first, last = fact_spans[fact]
        if rng.random() < 0.3:
            first = int(rng.integers(first, last))
            last = first + 1
        fact_blocks = {block for block in range(first, last) if block < blocks}
        if rng.random() < fraction and len(gold_blocks | distractors | fact_blocks) <= max_blocks:
            distractors |= fact_blocks
    return distractors


@dataclass(frozen=True)
class CoarseEntries:
    """The coarse entries of a row.

    Attributes:
        level1_positions: int64[n] positions in the row of gists of one block.
        blocks: int32[n, 2K] the tokens of each: K of left context (-1 before the start of the
            history), then the block's own.
        level2_positions: int64[m] positions of gists of K gists.
    """

    level1_positions: np.ndarray
    blocks: np.ndarray
    level2_positions: np.ndarray

    def shifted(self, offset: int) -> CoarseEntries:
        """The same entries, ``offset`` positions later in a row."""
        return CoarseEntries(
            self.level1_positions + offset, self.blocks, self.level2_positions + offset
        )

    def until(self, length: int) -> CoarseEntries:
        """The entries among the first ``length`` positions."""
        within = self.level1_positions < length
        level2_positions = self.level2_positions[self.level2_positions < length]
        return CoarseEntries(self.level1_positions[within], self.blocks[within], level2_positions)


@dataclass(frozen=True)
class CoarseWindow:
    """A window of exactly ``length`` entries over a history.

    Attributes:
        index: int64[k] positions of the history that are in the window.
        older: tokens [length - k] in front of them, as gists of a still older history.
        entries: which of the ``length`` entries are coarse.
    """

    index: np.ndarray
    older: np.ndarray
    entries: CoarseEntries

    @property
    def silent(self) -> np.ndarray:
        """bool [length]: coarse entries, which no text predicts."""
        labels = np.zeros(len(self.older) + len(self.index), bool)
        labels[self.entries.level1_positions] = True
        labels[self.entries.level2_positions] = True
        return labels


def coarse_window(
    rng: Rng,
    tokens: np.ndarray,
    tail_start: int,
    gold_blocks: set[int],
    length: int,
    block: int,
    filler: np.ndarray,
) -> CoarseWindow:
    """A window of ``length`` entries: the blocks before ``tail_start`` sampled by
    ``coarse_mask``, then the tail.

    A longer window is cut at its front, a shorter one filled with gists of blocks of ``filler``.
    """
    mask = np.ones(len(tokens), bool)
    gist, upper = np.zeros((2, len(tokens)), bool)
    past = slice(0, tail_start)
    capacity = length - (len(tokens) - tail_start)
    mask[past], gist[past], upper[past] = coarse_mask(
        rng, tokens[past], block, gold_blocks, capacity
    )
    index = np.flatnonzero(mask)
    index = index[max(0, len(index) - length) :]

    # Fill the front with rare tokens, which stand for gists of a still older history.
    rare_tokens = filler[rarest_in_blocks(filler, block)]
    previous = rare_tokens[rng.integers(len(rare_tokens), size=length - len(index))]

    # Which entries are coarse, and the text that each level-1 gist replaces.
    positions = np.flatnonzero(gist[index])
    is_upper = upper[index[positions]]
    level1 = positions[~is_upper]
    with_left_context = np.concatenate([np.full(block, -1, np.int32), tokens.astype(np.int32)])
    first = index[level1] // block * block
    blocks = with_left_context[first[:, None] + np.arange(2 * block)]
    level2_positions = np.concatenate(
        [np.arange(len(previous)), positions[is_upper] + len(previous)]
    )
    return CoarseWindow(
        index, previous, CoarseEntries(level1 + len(previous), blocks, level2_positions)
    )


def coarse_mask(
    rng: Rng, tokens: np.ndarray, block: int, gold_blocks: set[int], capacity: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples which tokens of a history of whole blocks are in the window.

    A raw block keeps all of its tokens, a coarse entry one. A group of blocks without a raw one may
    be a single entry (a level-2 gist). The fraction of ``capacity`` that is filled with raw blocks
    is random; only gold blocks can exceed it.

    Returns:
        ``mask``, ``gist``, ``upper``, bool [len(tokens)]: tokens in the window; those that are
        gists of any level; those that are level-2 gists.
    """
    blocks = len(tokens) // block
    groups = np.arange(blocks) // GROUP
    closed = rng.random(blocks // GROUP + 1) < rng.random()
    fill = capacity if rng.random() < 0.5 else int(capacity * rng.uniform(0.3, 1.0))

    raw = np.zeros(blocks, bool)
    raw[list(gold_blocks)] = True

    def own_entries() -> np.ndarray:
        """Blocks with an entry of their own: raw ones, and gists in an expanded group."""
        open_groups = np.unique(groups[raw])
        is_own_entry: np.ndarray = ~closed[groups] | np.isin(groups, open_groups)
        return is_own_entry

    def cost() -> int:
        is_own_entry = own_entries()
        return int(
            block * raw.sum() + (is_own_entry & ~raw).sum() + len(np.unique(groups[~is_own_entry]))
        )

    for _ in range(blocks):
        before = raw.copy()
        start = int(rng.integers(blocks))
        raw[start : start + int(rng.integers(1, 5))] = True
        if cost() > fill:
            raw = before
            break
    is_own_entry = own_entries()
    positions = rarest_in_blocks(tokens, block)
    gist, upper = np.zeros((2, len(tokens)), bool)
    gist[positions[is_own_entry & ~raw]] = True
    for group in np.unique(groups[~is_own_entry]):
        members = positions[groups == group]
        upper[members[int(rng.integers(len(members)))]] = True
    gist |= upper
    return np.repeat(raw, block) | gist, gist, upper
