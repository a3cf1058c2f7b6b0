"""Shards as jobs: made in any number of processes, kept where they are already there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megacontext.core.data.shards import Shard
from megacontext.core.jobs import run_in_processes
from megacontext.traces.errors import SourceError

__all__ = ["Entry", "ShardJob", "run_jobs"]

Entry = dict[str, object]  # file, rows, tokens, sha256


@dataclass(frozen=True)
class ShardJob:
    """One shard: where it goes, what it is made from (``note``), its size for the progress.

    ``write`` makes it and returns its manifest entry; it crosses to another process.
    """

    path: Path
    note: str
    size: int
    write: Callable[[], Entry]

    def run(self) -> Entry:
        """Write the shard, unless the file there was made from the same."""
        if self.path.exists():
            try:
                shard = Shard.open(self.path)
            except SourceError:
                shard = None  # a torn file of an interrupted run: written again below
            if shard is not None and shard.note == self.note:
                digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
                rows, tokens = len(shard.domains), len(shard.tokens)
                return {"file": self.path.name, "rows": rows, "tokens": tokens, "sha256": digest}
        return self.write()


def run_jobs(
    jobs: Iterable[ShardJob], processes: int, progress: Callable[[int], None] | None
) -> list[Entry]:
    """Run all jobs; manifest entries in their order.

    At most two jobs per process wait, so that a long source is never in memory as a whole.
    """
    entries: dict[int, Entry] = {}

    def done(number: int, job: ShardJob, entry: Entry) -> None:
        entries[number] = entry
        if progress is not None:
            progress(job.size)

    if processes <= 1:
        for number, job in enumerate(jobs):
            done(number, job, job.run())
        return list(entries.values())

    waiting: dict[int, ShardJob] = {}

    def calls() -> Iterator[Callable[[], Entry]]:
        for number, job in enumerate(jobs):
            waiting[number] = job
            yield job.run

    for number, entry in run_in_processes(calls(), processes, ahead=2 * processes):
        done(number, waiting.pop(number), entry)
    return [entries[number] for number in sorted(entries)]
