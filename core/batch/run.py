"""A batch from plan to table: run what is not finished, measure every trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.core.batch.engines import ENGINES
from megacontext.core.batch.job import is_finished
from megacontext.core.batch.plan import BatchJob, BatchPlan
from megacontext.core.evaluation.results.tables import write_parquet
from megacontext.traces.errors import ConfigError, MegaContextError, StorageError
from megacontext.traces.files import OS_FILES
from megacontext.traces.metrics import metrics_of
from megacontext.traces.reader import TraceReader

__all__ = ["BatchReport", "run_batch"]

Progress = Callable[[int, int], None]  # called with jobs that ended and jobs in all


@dataclass(frozen=True)
class BatchReport:
    """What a batch did.

    Attributes:
        parquet: one row per job: its columns, ``status`` (done, failed), ``error``, metrics.
        rows: the same rows.
        resumed: jobs that an earlier run had finished.
        failed: a sentence for each job that failed.
    """

    parquet: Path
    rows: list[dict[str, Any]]
    resumed: int
    failed: dict[str, str]


def run_batch(
    plan: BatchPlan,
    engine: str = "local",
    workers: int = 1,
    progress: Progress = lambda done, total: None,
    *,
    overwrite: bool = False,
) -> BatchReport:
    """Run the jobs whose traces are not finished; failures are listed, not fatal.

    The table is written after every job, so a killed batch leaves what it has.

    Args:
        overwrite: a trace that lies at a job's name and is of another config is replaced.

    Raises:
        ConfigError: an unknown engine, or one whose package is missing; or such a trace is there
            and is not to be replaced.
        StorageError: ``out`` cannot be written, or another batch is writing there.
    """
    if engine not in ENGINES:
        raise ConfigError(f"--engine is {engine!r}; use one of {', '.join(ENGINES)}.")
    with _exclusive(plan.out):
        return _run(plan, engine, workers, progress, overwrite)


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """One batch per folder: two would write the same traces."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = OS_FILES.lock(folder / ".lock")
    except OSError as error:
        raise StorageError(
            f"out is {str(folder)!r}, which cannot be written ({error.strerror}); name a folder "
            "of your own with --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _run(
    plan: BatchPlan, engine: str, workers: int, progress: Progress, overwrite: bool
) -> BatchReport:
    done: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}

    # Finished jobs are measured, not run again.
    for job in plan.jobs:
        if is_finished(job):
            done[job.name] = _metrics(job)
        elif job.trace.exists() and not overwrite:
            raise ConfigError(
                f"job {job.name}: {job.trace} is the trace of another config or model; name another"
                " --out, or run the job again in its place with --overwrite."
            )

    resumed, target = len(done), plan.out / "metrics.parquet"
    waiting = {job.name: job for job in plan.jobs if job.name not in done}
    progress(resumed, len(plan.jobs))

    # The table is written after every job.
    for result in ENGINES[engine](list(waiting.values()), workers) if waiting else ():
        if result.error:
            failed[result.name] = result.error
        else:
            try:
                done[result.name] = _metrics(waiting[result.name])
            except MegaContextError as error:
                failed[result.name] = str(error)
        progress(len(done) + len(failed), len(plan.jobs))
        write_parquet(target, _rows(plan, done, failed))
    rows = _rows(plan, done, failed)
    write_parquet(target, rows)
    return BatchReport(target, rows, resumed, failed)


def _metrics(job: BatchJob) -> dict[str, Any]:
    with TraceReader.open(job.trace) as reader:
        return metrics_of(reader)


def _rows(
    plan: BatchPlan, done: Mapping[str, dict[str, Any]], failed: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Rows of the jobs that ended, in the plan's order."""
    return [
        {
            "job": job.name,
            "config": job.source,
            "seed": job.seed,
            "override": job.override,
            "stream": job.stream,
            "status": "failed" if job.name in failed else "done",
            "error": failed.get(job.name, ""),
            "trace": str(job.trace),
            **done.get(job.name, {}),
        }
        for job in plan.jobs
        if job.name in done or job.name in failed
    ]
