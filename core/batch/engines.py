"""Where jobs run: worker processes of this machine, or a Ray cluster. The job is the same."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from megacontext.core.batch.job import JobResult, is_finished, run_job
from megacontext.core.batch.plan import Job
from megacontext.traces.errors import ConfigError

__all__ = ["ENGINES", "run_local", "run_ray"]

Run = Callable[[Job], JobResult]


def run_local(jobs: Sequence[Job], workers: int, run: Run = run_job) -> Iterator[JobResult]:
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
            yield JobResult(job.name, "") if is_finished(job) else _alone(job, run)


def _alone(job: Job, run: Run) -> JobResult:
    try:
        return next(_pool([job], 1, run))
    except BrokenProcessPool:
        return JobResult(job.name, "its worker process died; look for a lack of memory.")


def _pool(jobs: Sequence[Job], workers: int, run: Run) -> Iterator[JobResult]:
    # spawn: a forked child would inherit torch's threads in a state that cannot be known.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context)
    try:
        futures: list[Future[JobResult]] = [pool.submit(run, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def run_ray(jobs: Sequence[Job], workers: int, run: Run = run_job) -> Iterator[JobResult]:
    """The same on the Ray cluster that is running, or on a local one with ``workers`` CPUs.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--engine ray needs the package ray; pip install 'megacontext[ray]' or use local."
        ) from error
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        remote = ray.remote(max_retries=0)(run)
        waiting: dict[Any, Job] = {remote.remote(job): job for job in jobs}
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:
                yield JobResult(job.name, f"its worker died: {type(error).__name__}.")
    finally:
        if started:
            ray.shutdown()


ENGINES: dict[str, Callable[[Sequence[Job], int], Iterator[JobResult]]] = {
    "local": run_local,
    "ray": run_ray,
}
