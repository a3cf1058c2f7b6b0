"""Which tokens of a long history a training window keeps.

A window under MegaContext shows some blocks of the history raw; the rest is missing (*gappy*) or
stands there coarsely (*coarse*). Training text imitates a coarse entry by one token: the rarest
of its block, as :class:`megacontext.core.gistnet.token.TokenGister` does. So a model learns that a
window is a patchwork in which single tokens may stand for whole blocks.
"""

from __future__ import annotations

import numpy as np

__all__ = ["GROUP", "coarse_mask", "gappy_mask", "rarest_in_blocks"]

GROUP = 32  # blocks under one level-2 gist

Rng = np.random.Generator


def rarest_in_blocks(tokens: np.ndarray, block: int) -> np.ndarray:
    """Position of the rarest token (the last of the highest id) of each whole block."""
    whole = len(tokens) // block
    grid = tokens[: whole * block].reshape(whole, block)
    places: np.ndarray = np.arange(1, whole + 1) * block - 1 - np.argmax(grid[:, ::-1], axis=1)
    return places


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
    spare = np.array([b for b in np.flatnonzero(kept) if int(b) not in golden], np.int64)
    extra = int(kept.sum()) - wanted
    if extra > 0:
        kept[rng.permutation(spare)[:extra]] = False
    return kept


def coarse_mask(
    rng: Rng, tokens: np.ndarray, block: int, golden: set[int], room: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that stay of a history in whole blocks: raw blocks, and one for each coarse entry.

    A group of blocks without a raw one may be a single entry (a gist of gists). How much of
    ``room`` is filled with raw blocks is drawn at random; only golden blocks can exceed it.

    Returns:
        ``mask``, ``gist``, bool [len(tokens)]: what stays, and which of these stand for more.
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
    places = rarest_in_blocks(tokens, block)
    gist = np.zeros(len(tokens), bool)
    gist[places[single & ~raw]] = True
    for group in np.unique(groups[~single]):
        members = places[groups == group]
        gist[members[int(rng.integers(len(members)))]] = True
    return np.repeat(raw, block) | gist, gist
