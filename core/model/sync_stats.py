"""What following an edit of the working context took."""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.traces.schema import KVMode

__all__ = ["SyncStats"]


@dataclass(frozen=True)
class SyncStats:
    """What one ``sync`` did.

    ``rows`` were computed since the last sync beyond the appended ones (inserted rows, the newest
    row again, refreshed rows); ``shifted`` keys were rotated to new positions. ``mode`` is REFRESH
    if rows were refreshed since the last sync. ``drift`` is KL(exact || spliced) of the next
    token in nats where it was sampled.
    """

    rows: int
    mode: KVMode
    drift: float | None
    shifted: int = 0
