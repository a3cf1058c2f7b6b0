"""Where jobs run: worker processes of this machine, or a Ray cluster. The job is the same."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from megacontext.core.batch.job import JobResult, is_finished, run_job
from megacontext.core.batch.plan import BatchJob
from megacontext.core.jobs import run_in_processes
from megacontext.traces.errors import ConfigError

__all__ = ["ENGINES", "run_local", "run_ray"]

Run = Callable[[BatchJob], JobResult]


def run_local(jobs: Sequence[BatchJob], workers: int, run: Run = run_job) -> Iterator[JobResult]:
    """Results as jobs end, in ``workers`` spawned processes.

    A worker that dies (killed, out of memory) takes its pool along. What was not finished then
    runs again one job at a time, so that the job that kills its worker fails alone.
    """
    left = {job.name: job for job in jobs}
    try:
        for result in _pool(jobs, workers, run):
            del left[result.name]
            yield result
    except BrokenProcessPool:
        for job in list(left.values()):
            yield JobResult(job.name, "") if is_finished(job) else _exclusive(job, run)


def _exclusive(job: BatchJob, run: Run) -> JobResult:
    try:
        return next(_pool([job], 1, run))
    except BrokenProcessPool:
        return JobResult(job.name, "its worker process died; look for a lack of memory.")


def _pool(jobs: Sequence[BatchJob], workers: int, run: Run) -> Iterator[JobResult]:
    calls = [partial(run, job) for job in jobs]
    for _, result in run_in_processes(calls, min(workers, len(jobs))):
        yield result


def run_ray(jobs: Sequence[BatchJob], workers: int, run: Run = run_job) -> Iterator[JobResult]:
    """The same on the Ray cluster that ``RAY_ADDRESS`` names, or on a local one.

    A local cluster has ``workers`` CPUs; a named one runs a job on each CPU it has. Its nodes must
    have this package and see this folder, the batch's files and its ``out`` under the same paths.

    Raises:
        ConfigError: the package is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--engine ray needs the package ray; pip install 'megacontext[ray]' or use local."
        ) from error

    started = not ray.is_initialized()
    if started:
        _connect(ray, workers)
    try:
        remote = ray.remote(max_retries=0)(_in_folder)
        folder = str(Path.cwd())
        waiting: dict[Any, BatchJob] = {remote.remote(folder, run, job): job for job in jobs}
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayTaskError as error:  # the node fails, not the job
                yield JobResult(job.name, f"its Ray node cannot run it: {error.cause}.")
            except ray.exceptions.RayError as error:
                yield JobResult(job.name, f"its worker died: {type(error).__name__}.")
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any, workers: int) -> None:
    address = os.environ.get("RAY_ADDRESS", "")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local cluster reports to nobody
    options = {"log_to_driver": False, "logging_level": logging.WARNING}
    if not address:
        ray.init(address="local", num_cpus=workers, include_dashboard=False, **options)
        return

    # A named cluster: fail soon and in one sentence if nothing answers.
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError) as error:
        if "token" in str(error).lower() or "auth" in type(error).__name__.lower():
            raise ConfigError(
                f"RAY_ADDRESS is {address!r}, and the cluster there wants another token or none; "
                "give this shell the cluster's RAY_AUTH_TOKEN and RAY_AUTH_MODE."
            ) from error
        raise ConfigError(
            f"RAY_ADDRESS is {address!r} and no Ray cluster answers there; start one with "
            "`ray start --head` or unset it."
        ) from error


def _in_folder(folder: str, run: Run, job: BatchJob) -> JobResult:
    """On a node: a job's relative paths are those of the process that started the batch."""
    os.chdir(folder)
    return run(job)


ENGINES: dict[str, Callable[[Sequence[BatchJob], int], Iterator[JobResult]]] = {
    "local": run_local,
    "ray": run_ray,
}
