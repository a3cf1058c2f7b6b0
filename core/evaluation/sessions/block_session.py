"""A contender's session without a tree: the window holds a selection of raw blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from megacontext.core.evaluation.sessions.base import AnswerResult
from megacontext.core.evaluation.sessions.lazy_window import LazyKVWindow
from megacontext.core.focus.actions import F32, I64
from megacontext.core.model.layout import Layout
from megacontext.core.model.tokenizer import Tokenizer
from megacontext.core.runtime.nll import token_nll
from megacontext.core.tree.spec import U32

__all__ = ["BlockSession", "Selection", "best_blocks", "newest_blocks", "sink_and_newest"]

Selection = Callable[[int, int, str], I64]
"""(complete blocks, how many fit, text of the newest tokens) -> block numbers, ascending."""


def newest_blocks(blocks: int, fit: int, query: str) -> I64:
    """The newest blocks; distant history is dropped."""
    return np.arange(max(0, blocks - fit), blocks)


def sink_and_newest(blocks: int, fit: int, query: str) -> I64:
    """A sliding window with sink tokens: first and newest blocks (Xiao et al., 2024)."""
    selected = newest_blocks(blocks, fit, query)
    if len(selected) and fit > 1:
        selected[0] = 0
    return selected


def best_blocks(search: Callable[[str], np.ndarray], recent: int) -> Selection:
    """The best blocks of a search, with the ``recent`` newest; ties go to newer blocks.

    Args:
        search: F64[blocks] by the text of a query, of the history alone.
    """

    def select(blocks: int, fit: int, query: str) -> I64:
        keep_mask = np.zeros(blocks, bool)
        scores = search(query)[:blocks]

        # The search covers the history only; later blocks, such as the question, are always kept.
        latest = max(min(recent, fit), min(blocks - len(scores), fit))
        keep_mask[blocks - latest :] = True

        # Ties and blocks without a word of the query: the newest first.
        order = np.lexsort((-np.arange(len(scores)), -scores))
        order = order[~keep_mask[: len(scores)][order]]
        keep_mask[order[: max(0, fit - int(keep_mask.sum()))]] = True
        return np.flatnonzero(keep_mask)

    return select


class _Tokens:
    """A vector source without gists, for a window of raw tokens."""

    def __call__(self, level: int, index: I64) -> F32:
        raise AssertionError(f"a window of raw blocks asked for gists of level {level}")


class BlockSession:
    """A :class:`~.base.ContenderSession` that fills its window with the blocks of ``select``.

    Args:
        window: an exact window, empty or with rows of the same history; its ``w_max`` is the
            budget.
        tokens: uint32 [t], the history read so far.
        select: chooses the complete blocks of the window.
        query_tokens: newest tokens whose text is the query.
        gold: token spans I64[m, 2] of the answer, may be empty.
    """

    def __init__(
        self,
        window: LazyKVWindow,
        tokenizer: Tokenizer,
        block_size: int,
        tokens: U32,
        select: Selection,
        query_tokens: int,
        gold: I64,
    ) -> None:
        self._window = window
        self._tokenizer = tokenizer
        self._size = block_size
        self._tokens = tokens
        self._select = select
        self._query_tokens = query_tokens
        self._gold = gold
        self._known = len(tokens)
        self._blocks = np.empty(0, np.int64)
        self._question: str | None = None
        self._stream = tokenizer.stream()
        self._at_end = False

    def read(self, tokens: U32) -> None:
        """See :class:`~.base.ContenderSession`."""
        self._tokens = np.concatenate([self._tokens, tokens])

    def ask(self, prompt: U32, limit: int, stop: str, reserve: int = 0) -> AnswerResult:
        """See :class:`~.base.ContenderSession`."""
        self.read(prompt)
        self._fill_window(max(limit, reserve), self._tokenizer.decode(prompt))
        self._stream = self._tokenizer.stream()
        self._at_end = False
        gold_raw = self._gold_raw() if len(self._gold) else None
        return AnswerResult(self.continue_answer(limit, stop), gold_raw, None)

    def continue_answer(self, limit: int, stop: str) -> str:
        """See :class:`~.base.ContenderSession`; within the entries that ``ask`` left free."""
        text = ""
        for _ in range(0 if self._at_end else limit):
            assert self._window.last is not None
            token = int(self._window.last.logits[-1].argmax())
            self._window.append([token])
            finished, piece = token in self._tokenizer.end_ids, self._stream.push([token])[0]
            text += "" if finished else piece
            self._at_end = finished or bool(stop and stop in text)
            if self._at_end:
                break
        return text.partition(stop)[0] if stop else text

    def read_question(self, prompt: U32) -> None:
        """See :class:`~.base.ContenderSession`; the question is the query from here on."""
        self.read(prompt)
        self._question = self._tokenizer.decode(prompt)

    def loglikelihood(self, tokens: U32) -> tuple[F32, bool]:
        """See :class:`~.base.ContenderSession`."""
        self._fill_window(len(tokens), self._question or "")
        nll: list[F32] = []
        greedy = True
        for token in tokens:
            assert self._window.last is not None
            logits = self._window.last.logits[-1:]
            greedy &= int(logits[-1].argmax()) == int(token)
            nll.append(token_nll(logits, np.array([token], np.uint32)))
            self._window.append([token])
        return np.concatenate(nll), greedy

    def score_tokens(self, tokens: U32) -> F32:
        """See :class:`~.base.ContenderSession`; blocks are selected again at every block."""
        nll: list[F32] = []
        for start in range(0, len(tokens), self._size):
            part = tokens[start : start + self._size]
            latest = self._tokens[-self._query_tokens :]
            self._fill_window(len(part), self._question or self._tokenizer.decode(latest))
            assert self._window.last is not None
            nll.append(token_nll(self._window.last.logits[-1:], part[:1]))
            forward = self._window.append(part)
            if len(part) > 1:
                nll.append(token_nll(forward.logits[:-1], part[1:]))
            self.read(part)
        return np.concatenate(nll)

    def _fill_window(self, reserve: int, query: str) -> None:
        """Fill the window with the selected blocks; ``reserve`` entries stay free."""
        total = len(self._tokens)
        blocks, tail = divmod(total, self._size)
        fit = max(0, (self._window.w_max - reserve - tail) // self._size)
        self._blocks = self._select(blocks, min(fit, blocks), query)

        # KV rows of the history are reused at the next question, later rows are not.
        shared = self._known // self._size
        if (self._blocks >= shared).sum() < blocks - shared:
            shared, stop = blocks, total
            self._window.start_over(self._window.w_max)
        else:
            stop = self._known

        # Whole blocks first, then the rest of the history token by token.
        raw = self._blocks[self._blocks < shared]
        layout = Layout(np.zeros(len(raw), np.int8), raw, shared * self._size, stop, self._size)
        if len(raw) == 0 and stop == shared * self._size:
            self._window.start_over(self._window.w_max)  # a layout without rows
        else:
            self._window.rewind(stop)
            self._window.sync(layout, _Tokens(), lambda start, end: self._tokens[start:end])
        if stop < total:
            self._window.append(self._tokens[stop:])

    def _gold_raw(self) -> bool:
        first, last = self._gold[:, 0] // self._size, (self._gold[:, 1] - 1) // self._size
        needed = np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)])
        closed = len(self._tokens) // self._size
        return bool(np.isin(needed, np.append(self._blocks, closed)).all())
