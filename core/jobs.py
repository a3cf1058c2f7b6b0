"""One pool of worker processes for everything that runs as jobs: batches, evaluations, shards."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import connection
from typing import TypeVar

__all__ = ["run_in_processes"]

T = TypeVar("T")

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""numpy reads these as it is imported; torch is told by the config."""


def run_in_processes(
    calls: Iterable[Callable[[], T]], workers: int, *, ahead: int | None = None
) -> Iterator[tuple[int, T]]:
    """(number of the call, its result) as each call ends, in spawned processes.

    A worker ends with its parent, so a killed command leaves nobody who writes its files. Workers
    compute on one thread unless the environment says otherwise.

    Args:
        calls: what to run; a call and its result have to be picklable.
        workers: processes.
        ahead: calls that are taken before earlier ones have ended, so that ``calls`` can make
            large ones as they are needed; None takes all at once.

    Raises:
        BrokenProcessPool: a worker died.
        Exception: that of a call; later calls are cancelled.
    """
    for name in _THREADS:
        os.environ.setdefault(name, "1")

    # spawn: a forked child would inherit torch's threads in a state that cannot be known.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    running: dict[Future[T], int] = {}
    try:
        for number, call in enumerate(calls):
            running[pool.submit(call)] = number
            while ahead is not None and len(running) > ahead:
                yield from _ended(running)
        while running:
            yield from _ended(running)
    finally:
        pool.shutdown(cancel_futures=True)


def _ended(running: dict[Future[T], int]) -> Iterator[tuple[int, T]]:
    """Wait for at least one call; takes those that ended from ``running``."""
    finished, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in sorted(finished, key=running.__getitem__):
        yield running.pop(future), future.result()


def _end_with_parent() -> None:
    """In a worker: end when the parent does."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a worker process"

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
