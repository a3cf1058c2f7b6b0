"""Contenders without a tree: some raw blocks in the window, the rest of the history is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from megacontext.core.evaluation.contenders.engine_contender import Asked
from megacontext.core.evaluation.contenders.lazy_window import LazyKVWindow
from megacontext.core.focus.actions import F32, I64
from megacontext.core.model.layout import Layout
from megacontext.core.model.tokenizer import Tokenizer
from megacontext.core.runtime.nll import token_nll
from megacontext.core.tree.spec import U32

__all__ = ["FixedSeat", "Pick", "best_blocks", "newest_blocks", "sink_and_newest"]

Pick = Callable[[int, int, str], I64]
"""(complete blocks, how many fit, text of the newest tokens) -> block numbers, ascending."""


def newest_blocks(blocks: int, fit: int, query: str) -> I64:
    """Far history dropped."""
    return np.arange(max(0, blocks - fit), blocks)


def sink_and_newest(blocks: int, fit: int, query: str) -> I64:
    """A sliding window with sink tokens: first and newest blocks (Xiao et al., 2024)."""
    kept = newest_blocks(blocks, fit, query)
    if len(kept) and fit > 1:
        kept[0] = 0
    return kept


def best_blocks(search: Callable[[str], np.ndarray], recent: int) -> Pick:
    """A search picks blocks; the ``recent`` newest stay, and newer ones fill what is left.

    Args:
        search: F64[blocks] by the text of a query, of the history alone.
    """

    def pick(blocks: int, fit: int, query: str) -> I64:
        kept = np.zeros(blocks, bool)
        scores = search(query)[:blocks]
        # The search knows the history alone; what came behind it, as the question, stays too.
        newest = max(min(recent, fit), min(blocks - len(scores), fit))
        kept[blocks - newest :] = True
        # Ties and blocks without a word of the query: the newest first.
        order = np.lexsort((-np.arange(len(scores)), -scores))
        order = order[~kept[: len(scores)][order]]
        kept[order[: max(0, fit - int(kept.sum()))]] = True
        return np.flatnonzero(kept)

    return pick


class _Tokens:
    """No gists; a window of raw tokens asks for none."""

    def __call__(self, level: int, index: I64) -> F32:
        raise AssertionError(f"a window of raw blocks asked for gists of level {level}")


class FixedSeat:
    """One contender over one history; the same interface as ``FocusedSeat``.

    Args:
        window: an exact window, empty or with rows of the same history; its ``w_max`` is the
            budget.
        tokens: the history read so far.
        query_tokens: newest tokens whose text is the query.
        gold: token spans I64[m, 2] of the answer, may be empty.
    """

    def __init__(
        self,
        window: LazyKVWindow,
        tokenizer: Tokenizer,
        block_size: int,
        tokens: U32,
        pick: Pick,
        query_tokens: int,
        gold: I64,
    ) -> None:
        self._window = window
        self._tokenizer = tokenizer
        self._size = block_size
        self._tokens = tokens
        self._pick = pick
        self._query_tokens = query_tokens
        self._gold = gold
        self._known = len(tokens)
        self._blocks = np.empty(0, np.int64)
        self._heard: str | None = None
        self._stream = tokenizer.stream()
        self._ended = False

    def read(self, tokens: U32) -> None:
        """More history."""
        self._tokens = np.concatenate([self._tokens, tokens])

    def ask(self, prompt: U32, limit: int, stop: str, room: int = 0) -> Asked:
        """A greedy answer; ``room`` leaves that many entries for it, if more than ``limit``."""
        self.read(prompt)
        self._build(max(limit, room), self._tokenizer.decode(prompt))
        self._stream = self._tokenizer.stream()
        self._ended = False
        gold_raw = self._gold_raw() if len(self._gold) else None
        return Asked(self.more(limit, stop), gold_raw, None)

    def more(self, limit: int, stop: str) -> str:
        """The answer goes on, within what the first ``ask`` left free; empty where it has ended."""
        text = ""
        for _ in range(0 if self._ended else limit):
            assert self._window.last is not None
            token = int(self._window.last.logits[-1].argmax())
            self._window.append([token])
            ended, piece = token in self._tokenizer.end_ids, self._stream.push([token])[0]
            text += "" if ended else piece
            self._ended = ended or bool(stop and stop in text)
            if self._ended:
                break
        return text.partition(stop)[0] if stop else text

    def hear(self, prompt: U32) -> None:
        """A question, which stays the query from here on; the answer is measured next."""
        self.read(prompt)
        self._heard = self._tokenizer.decode(prompt)

    def judge(self, tokens: U32) -> tuple[F32, bool]:
        """NLL F32[t] in nats of the next tokens, and whether each was the likeliest."""
        self._build(len(tokens), self._heard or "")
        found, greedy = [], True
        for token in tokens:
            assert self._window.last is not None
            logits = self._window.last.logits[-1:]
            greedy &= int(logits[-1].argmax()) == int(token)
            found.append(token_nll(logits, np.array([token], np.uint32)))
            self._window.append([token])
        return np.concatenate(found), greedy

    def measure(self, tokens: U32) -> F32:
        """NLL F32[t] in nats of the next tokens; the window slides at every block."""
        found: list[F32] = []
        for start in range(0, len(tokens), self._size):
            part = tokens[start : start + self._size]
            newest = self._tokens[-self._query_tokens :]
            self._build(len(part), self._heard or self._tokenizer.decode(newest))
            assert self._window.last is not None
            found.append(token_nll(self._window.last.logits[-1:], part[:1]))
            forward = self._window.append(part)
            if len(part) > 1:
                found.append(token_nll(forward.logits[:-1], part[1:]))
            self.read(part)
        return np.concatenate(found)

    def _build(self, room: int, query: str) -> None:
        """Fill the window with ``room`` entries left."""
        total = len(self._tokens)
        blocks, tail = divmod(total, self._size)
        fit = max(0, (self._window.w_max - room - tail) // self._size)
        self._blocks = self._pick(blocks, min(fit, blocks), query)
        # Rows of the history are shared with the next question; what came behind it is not.
        shared = self._known // self._size
        if (self._blocks >= shared).sum() < blocks - shared:
            shared, stop = blocks, total
            self._window.start_over(self._window.w_max)
        else:
            stop = self._known
        kept = self._blocks[self._blocks < shared]
        layout = Layout(np.zeros(len(kept), np.int8), kept, shared * self._size, stop, self._size)
        if len(kept) == 0 and stop == shared * self._size:
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
