"""Retrieval: raw blocks that a search over the history ranks first."""

from __future__ import annotations

from megacontext.core.evaluation.contenders.base import Sample
from megacontext.core.evaluation.contenders.blocks import BlockContender
from megacontext.core.evaluation.sessions.block_session import Selection, best_blocks
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace

__all__ = ["BM25", "DENSE"]


def _bm25(workspace: EvalWorkspace, sample: Sample) -> Selection:
    return best_blocks(sample.history.search.scores, sample.config.focus.protected_blocks)


def _dense(workspace: EvalWorkspace, sample: Sample) -> Selection:
    search = workspace.dense_search(sample.history)
    return best_blocks(search, sample.config.focus.protected_blocks)


BM25 = BlockContender(
    "bm25", "raw blocks that BM25 ranks first, the newest blocks, no gists", _bm25
)
DENSE = BlockContender(
    "dense",
    "raw blocks that a sentence-embedding model ranks first, the newest blocks, no gists",
    _dense,
)
