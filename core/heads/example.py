"""An example in the history: another question in the same words, with its answer.

A prompt with examples asks the same thing of other texts first. Such a place resembles the question
more than any fact does, and shows the form of an answer; without the text that the example is
about, a model copies its answer. So an example is no candidate for what is asked, and is read
whole. The same question asked before is no example: its answer is this question's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

import numpy as np

from megacontext.core.tree.spec import U32

__all__ = ["ANSWER_TOKENS", "TEXT_TOKENS", "asks_alike", "find_example"]

TEXT_TOKENS = 512
"""Tokens before an example's question that count as the text it is about."""
ANSWER_TOKENS = 32
"""Tokens behind it that count as its answer."""
_COMPARED = 48
"""Tokens at the end of a question that are compared."""
_LEAST = 8
"""Shorter questions say too little to be told apart from ordinary text."""
_END = 3
"""Last tokens that have to be the same."""
_ALIKE = 0.75
"""Fraction of tokens in common, in order."""


def find_example(
    question: U32,
    tokens: Callable[[int, int], U32],
    before: int,
    blocks: Sequence[int],
    block_size: int,
) -> tuple[int, int] | None:
    """Token span [start, stop) of an example, with its text and its answer, or None.

    Args:
        question: token ids.
        tokens: ids [start, stop) of the history.
        before: tokens of the history before the question.
        blocks: where such a question may end, in the order in which to look.
    """
    asked = np.asarray(question)[-_COMPARED:]
    if len(asked) < _LEAST:
        return None
    for block in blocks:
        first = max(0, block * block_size - len(asked))
        text = np.asarray(tokens(first, min(before, (block + 1) * block_size)))
        for end in _ends(text, asked[-_END:]):
            start = max(0, end - len(asked))
            if first + end > block * block_size and asks_alike(text[start:end], asked):
                start = max(0, first + start - TEXT_TOKENS)
                return start, min(before, first + end + ANSWER_TOKENS)
    return None


def asks_alike(text: U32, asked: U32) -> bool:
    """Whether ``text`` asks in the words of ``asked``, but for something else."""
    if np.array_equal(text, asked):
        return False
    matcher = SequenceMatcher(None, text.tolist(), asked.tolist(), autojunk=False)
    return matcher.ratio() >= _ALIKE


def _ends(text: U32, end: U32) -> list[int]:
    """Positions behind each occurrence of ``end``."""
    if len(text) < len(end):
        return []
    windows = np.lib.stride_tricks.sliding_window_view(text, len(end))
    return (np.flatnonzero((windows == end).all(1)) + len(end)).tolist()
