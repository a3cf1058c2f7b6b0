"""Windows of the newest raw blocks, with and without the first block."""

from __future__ import annotations

from megacontext.core.evaluation.contenders.blocks import BlockContender
from megacontext.core.evaluation.sessions.block_session import newest_blocks, sink_and_newest

__all__ = ["DELETE", "FULL", "RECENCY"]

RECENCY = BlockContender(
    "recency",
    "sliding window: the first block and the newest raw blocks",
    lambda workspace, sample: sink_and_newest,
)
DELETE = BlockContender("delete", "the newest raw blocks", lambda workspace, sample: newest_blocks)
FULL = BlockContender(
    "full",
    "the whole history in the window, while it fits the trained window",
    lambda workspace, sample: newest_blocks,
    whole_window=True,
)
