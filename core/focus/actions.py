"""Array types of the focus, and actions as arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from megacontext.traces.row import ACTION_DTYPE, REJECTED_DTYPE
from megacontext.traces.schema import ActionKind

__all__ = [
    "ACTION_DTYPE",
    "COLLAPSE",
    "EXPAND",
    "F16",
    "F32",
    "I8",
    "I64",
    "REJECTED_DTYPE",
    "Actions",
    "Bools",
    "make_actions",
]

I8 = npt.NDArray[np.int8]
I64 = npt.NDArray[np.int64]
F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Actions = npt.NDArray[np.void]
"""A structured array with at least the fields kind, level and index."""

EXPAND = int(ActionKind.EXPAND)
COLLAPSE = int(ActionKind.COLLAPSE)


def make_actions(nodes: Iterable[tuple[int, int, int]], block_size: int) -> Actions:
    """Actions from (kind, level, index) triples; score 0, voluntary, ``Reason.SCORE``."""
    rows = [
        (kind, level, index, 0.0, block_size - 1 if kind == EXPAND else 1 - block_size, False, 0)
        for kind, level, index in nodes
    ]
    return np.array(rows, ACTION_DTYPE)
