"""Tokens that a gist alone can foretell: copies of what its block says.

Thirty tokens behind a block, nearly all that deleting it costs stands on few tokens: those whose
pair with the token before them occurred in that block and nowhere else. Random tokens hardly ever
hit one, so training looks for them, and plants more by repeating pieces of blocks.
"""

from __future__ import annotations

import numpy as np

__all__ = ["copied_in", "copied_tokens", "repeat_pieces", "repeated_in"]

Rng = np.random.Generator
_PIECE = (3, 17)  # tokens of a repeated piece: from, below
_BETWEEN = (4, 20)  # tokens of the row's own text between two pieces


def copied_tokens(text: np.ndarray, coarse: np.ndarray, size: int, apart: int) -> np.ndarray:
    """History positions of raw tokens that copy from a coarse block, ascending.

    Such a token and the raw token before it stand next to each other inside a coarse block that
    began ``apart`` tokens ago or more, and in no raw text before.

    Args:
        text: [T] tokens. coarse: bool [T / size], which blocks are no longer raw.
    """
    position = np.arange(1, len(text))
    hidden = np.repeat(coarse, size)
    within = hidden[1:] & (position % size != 0)
    raw = ~hidden[1:] & ~hidden[:-1]
    pairs = (text[:-1].astype(np.int64) << 32) | text[1:].astype(np.int64)
    _, which = np.unique(pairs, return_inverse=True)
    first_within, first_raw = np.full((2, len(text)), len(text) + apart)
    np.minimum.at(first_within, which[within], position[within])
    np.minimum.at(first_raw, which[raw], position[raw])
    fresh = raw & (first_raw[which] == position)
    copied: np.ndarray = position[fresh & (first_within[which] + apart <= position)]
    return copied


def copied_in(
    window: np.ndarray, coarse: np.ndarray, places: np.ndarray, blocks: np.ndarray, apart: int
) -> np.ndarray:
    """The same for a window: places of tokens that copy from a gist's block, ascending.

    Args:
        window: tokens [L]. coarse: bool [L], entries that are no text.
        places: [n] where the gists stand. blocks: tokens [n, K] behind each.
        apart: entries between a gist and what copies from it, at least.
    """
    position = np.arange(1, len(window))
    raw = ~coarse[1:] & ~coarse[:-1]
    text = (window[:-1].astype(np.int64) << 32) | window[1:].astype(np.int64)
    within = (blocks[:, :-1].astype(np.int64) << 32) | blocks[:, 1:].astype(np.int64)
    _, which = np.unique(np.concatenate([text, within.ravel()]), return_inverse=True)
    first_within, first_raw = np.full((2, len(which) + 1), len(window) + apart)
    np.minimum.at(first_within, which[len(text) :], np.repeat(places, within.shape[1]))
    which = which[: len(text)]
    np.minimum.at(first_raw, which[raw], position[raw])
    fresh = raw & (first_raw[which] == position)
    copied: np.ndarray = position[fresh & (first_within[which] + apart < position)]
    return copied


def repeated_in(rng: Rng, text: np.ndarray, blocks: np.ndarray, apart: int) -> np.ndarray:
    """``text`` [T], which stands behind the gists of all ``blocks`` [n, K], with pieces of them
    here and there from place ``apart`` on."""
    text = text.copy()
    at = apart
    while len(blocks):
        at += int(rng.integers(*_BETWEEN))
        length = int(rng.integers(*_PIECE))
        if at + length > len(text):
            break
        block = blocks[int(rng.integers(len(blocks)))]
        first = int(rng.integers(len(block) - length + 1))
        text[at : at + length] = block[first : first + length]
        at += length
    return text


def repeat_pieces(
    rng: Rng, text: np.ndarray, coarse: np.ndarray, sources: np.ndarray, size: int, apart: int
) -> np.ndarray:
    """``text`` [T] whose raw blocks repeat pieces of earlier coarse blocks here and there.

    Args:
        coarse: bool [T / size]; these blocks stay as they are. sources: the numbers, ascending, of
            those that pieces are taken from.
        apart: tokens between a piece's block and the piece, at least.
    """
    text = text.copy()
    if not len(sources):
        return text
    ends = (sources + 1) * size
    at = int(ends[0]) + apart
    while True:
        at += int(rng.integers(*_BETWEEN))
        length = int(rng.integers(*_PIECE))
        if at + length > len(text):
            return text
        if coarse[at // size] or coarse[(at + length - 1) // size]:
            continue
        previous = int(np.searchsorted(ends, at - apart, side="right"))
        block = int(sources[int(rng.integers(previous))])
        first = block * size + int(rng.integers(size - length + 1))
        text[at : at + length] = text[first : first + length]
        at += length
