"""A tokenized history of an evaluation, with what is computed of it once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from megacontext.core.evaluation.sessions.block_search import BlockSearch
from megacontext.core.focus.actions import F32, I64
from megacontext.core.heads.history_keys import HistoryKeys
from megacontext.core.model.tokenizer import Tokenizer
from megacontext.core.tree import Gister, Tree
from megacontext.core.tree.spec import U32

__all__ = ["History", "token_spans"]


def token_spans(offsets: I64, spans: tuple[tuple[int, int], ...]) -> I64:
    """Token spans I64[m, 2] that cover character ``spans``; ``offsets`` I64[n, 2] of the tokens."""
    labels = np.array(spans, np.int64).reshape(-1, 2)
    first = np.searchsorted(offsets[:, 1], labels[:, 0], side="right")
    last = np.searchsorted(offsets[:, 0], labels[:, 1], side="left")
    return np.stack([first, last], axis=1)


@dataclass
class History:
    """A tokenized text and what contenders share of it.

    Attributes:
        tokens: uint32 [n].
        offsets: I64[n, 2], character spans of the tokens; empty for a history of tokens alone.
        gister, mean_gister: cache the gists of this history.
        tree: over the whole history, once it is built.
        vectors: F32[blocks, d] of its blocks, once an embedder has encoded them.
        keys: of a model's heads, once they are encoded.
    """

    tokens: U32
    offsets: I64
    block_size: int
    tokenizer: Tokenizer
    gister: Gister
    mean_gister: Gister
    tree: Tree | None = None
    vectors: F32 | None = None
    keys: HistoryKeys | None = None

    @cached_property
    def search(self) -> BlockSearch:
        """BM25 over the complete blocks."""
        return BlockSearch(self.block_texts())

    def block_texts(self) -> list[str]:
        """Texts of the complete blocks."""
        size = self.block_size
        whole = len(self.tokens) // size
        blocks = self.tokens[: whole * size].reshape(whole, size).tolist()
        return [self.tokenizer.decode(block) for block in blocks]
