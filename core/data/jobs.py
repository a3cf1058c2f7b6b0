"""Shards as jobs: made in any number of processes, kept where they are already there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from megacontext.core.data.shards import Shard
from megacontext.traces.errors import SourceError

__all__ = ["Entry", "Job", "run_jobs"]

Entry = dict[str, object]  # file, rows, tokens, sha256


@dataclass(frozen=True)
class Job:
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
    jobs: Iterable[Job], processes: int, progress: Callable[[int], None] | None
) -> list[Entry]:
    """Run all jobs; manifest entries in their order.

    At most two jobs per process wait, so that a long source is never in memory as a whole.
    """
    entries: dict[int, Entry] = {}

    def done(number: int, job: Job, entry: Entry) -> None:
        entries[number] = entry
        if progress is not None:
            progress(job.size)

    if processes <= 1:
        for number, job in enumerate(jobs):
            done(number, job, job.run())
        return list(entries.values())
    waiting: dict[Future[Entry], tuple[int, Job]] = {}

    def collect() -> None:
        finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in finished:
            done(*waiting.pop(future), future.result())

    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for number, job in enumerate(jobs):
            waiting[pool.submit(job.run)] = (number, job)
            while len(waiting) > 2 * processes:
                collect()
        while waiting:
            collect()
    return [entries[number] for number in sorted(entries)]
