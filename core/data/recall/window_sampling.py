"""Which tokens of a long history a training window keeps.

A window under MegaContext shows some blocks of the history raw; the rest is missing (*gappy*) or
stands there coarsely (*coarse*). Training text imitates a coarse entry by one token: the rarest
of its block, as :class:`megacontext.core.gistnet.token.TokenGister` does. So a model learns that a
window is a patchwork in which single tokens may stand for whole blocks. ``CoarseEntries`` says what
they stand for, for a trainer that puts the gists of a GistNet in their place.
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


def gappy_mask(rng: Rng, blocks: int, golden: set[int], wanted: int) -> np.ndarray:
    """Blocks that stay, bool [blocks]: the golden ones and others in short runs.

    Exactly ``wanted`` of them, unless there are fewer blocks or more golden ones.
    """
    kept = np.zeros(blocks, bool)
    kept[list(golden)] = True
    while int(kept.sum()) < wanted and not kept.all():
        start = int(rng.integers(blocks))
        kept[start : start + int(rng.integers(1, 5))] = True
    # Runs may overshoot: drop blocks that no question needs.
    remaining = np.array([b for b in np.flatnonzero(kept) if int(b) not in golden], np.int64)
    extra = int(kept.sum()) - wanted
    if extra > 0:
        kept[rng.permutation(remaining)[:extra]] = False
    return kept


def distractor_blocks(
    rng: Rng, spread: list[tuple[int, int]], golden: set[int], blocks: int, most: int
) -> set[int]:
    """Blocks of other facts that are open beside the ``golden`` ones.

    What is like an asked fact tends to be open too: no, some or all facts of a window, most of
    them whole, some with one of their blocks only.

    Args:
        spread: blocks [start, stop) of every fact, the asked ones included.
        blocks: only those below it count; the others belong to the raw tail.
        most: blocks that may be open in all.
    """
    fraction = float(rng.choice([0.0, 0.4, 1.0, 1.0]))
    beside: set[int] = set()
    for fact in rng.permutation(len(spread)).tolist():
        first, last = spread[fact]
        if rng.random() < 0.3:
            first = int(rng.integers(first, last))
            last = first + 1
        own = {block for block in range(first, last) if block < blocks}
        if rng.random() < fraction and len(golden | beside | own) <= most:
            beside |= own
    return beside


@dataclass(frozen=True)
class CoarseEntries:
    """The coarse entries of a row.

    Attributes:
        singles: int64[n] places in the row of gists of one block.
        blocks: int32[n, 2K] the tokens behind each: K of left context (-1 before the start of
            the history), then the block's own.
        uppers: int64[m] places of gists of gists.
    """

    singles: np.ndarray
    blocks: np.ndarray
    uppers: np.ndarray

    def moved(self, places: int) -> CoarseEntries:
        """The same entries ``places`` further back in a row."""
        return CoarseEntries(self.singles + places, self.blocks, self.uppers + places)

    def until(self, length: int) -> CoarseEntries:
        """Those among the first ``length`` places."""
        within = self.singles < length
        uppers = self.uppers[self.uppers < length]
        return CoarseEntries(self.singles[within], self.blocks[within], uppers)


@dataclass(frozen=True)
class CoarseWindow:
    """What a window of exactly ``length`` entries shows of a history.

    Attributes:
        index: int64[k] positions of the history that stay.
        older: tokens [length - k] in front: gists of a still older history.
        entries: which of the ``length`` places are coarse.
    """

    index: np.ndarray
    older: np.ndarray
    entries: CoarseEntries

    @property
    def silent(self) -> np.ndarray:
        """bool [length]: entries that no text foretells."""
        labels = np.zeros(len(self.older) + len(self.index), bool)
        labels[self.entries.singles] = True
        labels[self.entries.uppers] = True
        return labels


def coarse_window(
    rng: Rng,
    tokens: np.ndarray,
    tail_start: int,
    golden: set[int],
    length: int,
    block: int,
    filler: np.ndarray,
) -> CoarseWindow:
    """The whole blocks before ``tail_start`` as ``coarse_mask`` leaves them, then the tail.

    What is too long goes from the front, and gists of blocks of ``filler`` fill what is short.
    """
    mask = np.ones(len(tokens), bool)
    gist, upper = np.zeros((2, len(tokens)), bool)
    past = slice(0, tail_start)
    capacity = length - (len(tokens) - tail_start)
    mask[past], gist[past], upper[past] = coarse_mask(rng, tokens[past], block, golden, capacity)
    index = np.flatnonzero(mask)
    index = index[max(0, len(index) - length) :]
    rare = filler[rarest_in_blocks(filler, block)]
    previous = rare[rng.integers(len(rare), size=length - len(index))]
    positions = np.flatnonzero(gist[index])
    is_upper = upper[index[positions]]
    records = positions[~is_upper]
    known = np.concatenate([np.full(block, -1, np.int32), tokens.astype(np.int32)])
    first = index[records] // block * block
    blocks = known[first[:, None] + np.arange(2 * block)]
    uppers = np.concatenate([np.arange(len(previous)), positions[is_upper] + len(previous)])
    return CoarseWindow(index, previous, CoarseEntries(records + len(previous), blocks, uppers))


def coarse_mask(
    rng: Rng, tokens: np.ndarray, block: int, golden: set[int], room: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens that stay of a history in whole blocks: raw blocks, and one for each coarse entry.

    A group of blocks without a raw one may be a single entry (a gist of gists). How much of
    ``room`` is filled with raw blocks is drawn at random; only golden blocks can exceed it.

    Returns:
        ``mask``, ``gist``, ``upper``, bool [len(tokens)]: what stays, which of these stand for
        more, and which of these for a whole group.
    """
    blocks = len(tokens) // block
    groups = np.arange(blocks) // GROUP
    closed = rng.random(blocks // GROUP + 1) < rng.random()
    fill = room if rng.random() < 0.5 else int(room * rng.uniform(0.3, 1.0))

    raw = np.zeros(blocks, bool)
    raw[list(golden)] = True

    def singles() -> np.ndarray:
        """Blocks that are entries of their own: raw ones, and gists in an open group."""
        open_groups = np.unique(groups[raw])
        single: np.ndarray = ~closed[groups] | np.isin(groups, open_groups)
        return single

    def cost() -> int:
        single = singles()
        return int(block * raw.sum() + (single & ~raw).sum() + len(np.unique(groups[~single])))

    for _ in range(blocks):
        before = raw.copy()
        start = int(rng.integers(blocks))
        raw[start : start + int(rng.integers(1, 5))] = True
        if cost() > fill:
            raw = before
            break
    single = singles()
    positions = rarest_in_blocks(tokens, block)
    gist, upper = np.zeros((2, len(tokens)), bool)
    gist[positions[single & ~raw]] = True
    for group in np.unique(groups[~single]):
        members = positions[groups == group]
        upper[members[int(rng.integers(len(members)))]] = True
    gist |= upper
    return np.repeat(raw, block) | gist, gist, upper
