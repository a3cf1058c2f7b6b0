"""Tokens that only a gist can predict: copies from the block that it replaces.

More than ~30 tokens after a block, the NLL increase from deleting it is concentrated on few tokens:
those that complete a bigram which occurs only in that block. A random sample of tokens rarely
contains one, so training selects them, and adds more by repeating pieces of blocks.
"""

from __future__ import annotations

import numpy as np

__all__ = ["copied_in", "copied_tokens", "repeat_pieces", "repeated_in"]

Rng = np.random.Generator
_PIECE = (3, 17)  # tokens of a repeated piece: from, below
_BETWEEN = (4, 20)  # tokens of the row's own text between two pieces


def copied_tokens(text: np.ndarray, coarse: np.ndarray, size: int, min_distance: int) -> np.ndarray:
    """History positions of raw tokens that copy from a coarse block, ascending.

    Such a token and the raw token before it form a bigram that occurs inside a coarse block which
    started at least ``min_distance`` tokens earlier, and in no raw text before.

    Args:
        text: [T] tokens. coarse: bool [T / size], which blocks are no longer raw.
    """
    position = np.arange(1, len(text))
    hidden = np.repeat(coarse, size)
    in_coarse = hidden[1:] & (position % size != 0)
    raw = ~hidden[1:] & ~hidden[:-1]
    pairs = (text[:-1].astype(np.int64) << 32) | text[1:].astype(np.int64)
    _, pair_id = np.unique(pairs, return_inverse=True)
    first_in_coarse, first_raw = np.full((2, len(text)), len(text) + min_distance)
    np.minimum.at(first_in_coarse, pair_id[in_coarse], position[in_coarse])
    np.minimum.at(first_raw, pair_id[raw], position[raw])
    fresh = raw & (first_raw[pair_id] == position)
    copied: np.ndarray = position[fresh & (first_in_coarse[pair_id] + min_distance <= position)]
    return copied


def copied_in(
    window: np.ndarray,
    coarse: np.ndarray,
    gist_positions: np.ndarray,
    blocks: np.ndarray,
    min_distance: int,
) -> np.ndarray:
    """The same for a window: positions of tokens that copy from a gist's block, ascending.

    Args:
        window: tokens [L]. coarse: bool [L], entries that are gists.
        gist_positions: [n] indices of the gists. blocks: tokens [n, K] that each replaces.
        min_distance: minimum entries between a gist and a copy from its block.
    """
    position = np.arange(1, len(window))
    raw = ~coarse[1:] & ~coarse[:-1]
    text = (window[:-1].astype(np.int64) << 32) | window[1:].astype(np.int64)
    in_blocks = (blocks[:, :-1].astype(np.int64) << 32) | blocks[:, 1:].astype(np.int64)
    _, pair_id = np.unique(np.concatenate([text, in_blocks.ravel()]), return_inverse=True)
    first_in_blocks, first_raw = np.full((2, len(pair_id) + 1), len(window) + min_distance)
    np.minimum.at(
        first_in_blocks, pair_id[len(text) :], np.repeat(gist_positions, in_blocks.shape[1])
    )
    pair_id = pair_id[: len(text)]
    np.minimum.at(first_raw, pair_id[raw], position[raw])
    fresh = raw & (first_raw[pair_id] == position)
    copied: np.ndarray = position[fresh & (first_in_blocks[pair_id] + min_distance < position)]
    return copied


def repeated_in(rng: Rng, text: np.ndarray, blocks: np.ndarray, min_distance: int) -> np.ndarray:
    """``text`` [T] with random pieces of ``blocks`` [n, K] pasted in, from ``min_distance`` on.

    The gists of all ``blocks`` come before ``text``.
    """
    text = text.copy()
    position = min_distance
    while len(blocks):
        position += int(rng.integers(*_BETWEEN))
        length = int(rng.integers(*_PIECE))
        if position + length > len(text):
            break
        block = blocks[int(rng.integers(len(blocks)))]
        first = int(rng.integers(len(block) - length + 1))
        text[position : position + length] = block[first : first + length]
        position += length
    return text


def repeat_pieces(
    rng: Rng,
    text: np.ndarray,
    coarse: np.ndarray,
    sources: np.ndarray,
    size: int,
    min_distance: int,
) -> np.ndarray:
    """``text`` [T] with random pieces of coarse blocks pasted into later raw blocks.

    Args:
        coarse: bool [T / size]; these blocks are not changed. sources: ascending indices of the
            blocks that pieces are copied from.
        min_distance: minimum tokens between a block and a copy from it.
    """
    text = text.copy()
    if not len(sources):
        return text
    ends = (sources + 1) * size
    position = int(ends[0]) + min_distance
    while True:
        position += int(rng.integers(*_BETWEEN))
        length = int(rng.integers(*_PIECE))
        if position + length > len(text):
            return text
        if coarse[position // size] or coarse[(position + length - 1) // size]:
            continue
        previous = int(np.searchsorted(ends, position - min_distance, side="right"))
        block = int(sources[int(rng.integers(previous))])
        first = block * size + int(rng.integers(size - length + 1))
        text[position : position + length] = text[first : first + length]
        position += length
