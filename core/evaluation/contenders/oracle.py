"""The engine with a lens that knows the answer's place: the upper bound of any lens."""

from __future__ import annotations

import numpy as np

from megacontext.core.evaluation.contenders.base import Sample
from megacontext.core.evaluation.contenders.engine import EngineContender
from megacontext.core.evaluation.sessions.control_lenses import OracleLens
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.focus.actions import I64

__all__ = ["ORACLE", "ORACLE_NEIGHBOURS", "with_neighbours"]


def with_neighbours(gold: I64, block_size: int, n_tokens: int) -> I64:
    """Spans I64[m, 2] over the blocks of ``gold`` I64[m, 2], those before and those after."""
    first, last = gold[:, 0] // block_size - 1, -(-gold[:, 1] // block_size) + 1
    starts = np.maximum(first, 0) * block_size
    return np.stack([starts, np.minimum(last * block_size, n_tokens)], axis=1)


def _neighbours_lens(workspace: EvalWorkspace, sample: Sample) -> OracleLens:
    n_tokens = len(sample.history.tokens)
    return OracleLens(with_neighbours(sample.gold, workspace.config.block_size, n_tokens))


ORACLE = EngineContender(
    "oracle",
    "ours with a lens that knows where the answer is, without echoes",
    lambda workspace, sample: OracleLens(sample.gold),
    needs_gold=True,
    echoes=False,
)
ORACLE_NEIGHBOURS = EngineContender(
    "oracle_neighbours",
    "oracle, which also expands the blocks before and after",
    _neighbours_lens,
    needs_gold=True,
    echoes=False,
)
