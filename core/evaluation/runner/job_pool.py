"""Evaluation in pieces: each job is one history or document, so that processes share the work.

A job is a function of its own fields alone, so results depend neither on the number of workers
nor on the order in which jobs end. Finished jobs are kept line by line in a file; a run that was
interrupted takes them from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, Protocol

from megacontext.core.config import Config, dump_config, parse_config
from megacontext.core.cpu import usable_cores
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.jobs import run_in_processes
from megacontext.core.model.files import resolve_model
from megacontext.core.runtime.pretrained import DEMO, bundle_folder
from megacontext.traces.errors import ConfigError, MegaContextError, ModelError, StorageError

__all__ = [
    "Job",
    "JobProgress",
    "Refused",
    "Store",
    "fingerprint",
    "plain_config",
    "run_jobs",
    "workers_for",
]

JobProgress = Callable[[int, int, str], None]
"""(done, of how many, what was done last)"""

_KITS = 2


class Job(Protocol):
    """One piece of work; a frozen dataclass of plain values, so that its ``repr`` names it.

    Attributes:
        config: the config as YAML text; jobs of one config share a loaded model.
        label: what to call it while it runs.
        weight: how long it takes beside others.
    """

    @property
    def config(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def weight(self) -> float: ...
    def run(self, workspace: EvalWorkspace) -> list[Any]:
        """Results, dataclasses of plain values."""
        ...


@dataclass(frozen=True)
class Refused:
    """The only result of a job whose config this bundle cannot serve, where the job has a true
    ``optional``: an ablation goes on without a trained part that is not there."""

    reason: str


def plain_config(config: Config) -> str:
    """The config of a job. One thread, unless the config names more: results of several threads
    may differ in the last bit, and several processes would fight for the cores."""
    return dump_config(parse_config(dump_config(config), [f"threads={config.threads or 1}"]))


def workers_for(config: Config, jobs: int) -> int:
    """``jobs``, or for 0 one a core with the small bundled model and one with any other."""
    if jobs:
        return jobs
    return usable_cores() if config.model.path == DEMO else 1


def fingerprint(config: Config) -> str:
    """Names the weights that results belong to: file contents of the bundle, else size and time."""
    digest = hashlib.sha256()
    bundled = config.model.path == DEMO
    paths = [config.gist.path, config.lens.path, config.model.adapter]
    model_paths = [bundle_folder()] if bundled else resolve_model(config.model.path).paths
    for path in [*model_paths, *(Path(p) for p in paths if p)]:
        folder = path if path.is_dir() else path.parent
        files = path.rglob("*") if path.is_dir() else [path]
        for file in sorted(p for p in files if p.is_file() and p.suffix != ".md"):
            stat = file.stat()
            digest.update(f"{file.relative_to(folder)} {stat.st_size}\n".encode())
            digest.update(file.read_bytes() if bundled else str(stat.st_mtime_ns).encode())
    return digest.hexdigest()[:24]


class Store:
    """Finished jobs as JSON lines behind a header that names the weights.

    Args:
        path: the file.
        resume: keep what a run with the same weights has left there; a line that was cut by a
            kill is dropped.
        of: see :func:`fingerprint`.
        types: the dataclasses that results are made of.

    Raises:
        StorageError: the file cannot be written.
    """

    def __init__(self, path: Path, resume: bool, of: str, types: Sequence[type]) -> None:
        self._types = {kind.__name__: kind for kind in types}
        self.done: dict[str, list[Any]] = {}
        lines = self._read(path, of) if resume else []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(path.name + ".part")
            self._file: IO[str] = new.open("w", encoding="utf-8")
            self._line({"weights": of})
            for line in lines:
                self._line(line)
            new.replace(path)  # only now: a kill before it costs no finished job
        except OSError as error:
            raise StorageError(f"{path} cannot be written ({error.strerror or error}).") from error

    def _read(self, path: Path, of: str) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
        if not lines or lines[0] != {"weights": of}:
            return []
        for record in lines[1:]:
            results = [self._types[name](**model_paths) for name, model_paths in record["results"]]
            self.done[record["job"]] = results
        return lines[1:]

    def _line(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def keep(self, job: str, results: Sequence[Any]) -> None:
        """A finished job."""
        self.done[job] = list(results)
        self._line({"job": job, "results": [[type(r).__name__, asdict(r)] for r in results]})

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()


def run_jobs(
    jobs: Sequence[Job], workers: int, store: Store, progress: JobProgress = lambda *_: None
) -> list[list[Any]]:
    """Results in the order of ``jobs``; long jobs begin first.

    Raises:
        MegaContextError: that of a job, or a worker died; finished jobs are kept.
    """
    names = [_name(job) for job in jobs]
    left = [i for i, name in enumerate(names) if name not in store.done]
    left.sort(key=lambda i: -jobs[i].weight)
    progress(len(jobs) - len(left), len(jobs), "")

    def ended(i: int, results: list[Any]) -> None:
        store.keep(names[i], results)
        progress(sum(name in store.done for name in names), len(jobs), jobs[i].label)

    with closing(store):
        if workers == 1 or len(left) < 2:
            for i in left:
                ended(i, _run(jobs[i]))
        else:
            _in_processes(jobs, left, workers, ended)
    return [store.done[name] for name in names]


def _in_processes(
    jobs: Sequence[Job],
    left: Sequence[int],
    workers: int,
    finished: Callable[[int, list[Any]], None],
) -> None:
    calls = [partial(_run, jobs[i]) for i in left]
    try:
        for number, results in run_in_processes(calls, min(workers, len(left))):
            finished(left[number], results)
    except BrokenProcessPool as error:
        raise MegaContextError(
            f"One of {workers} worker processes died, most likely for lack of memory; lower --jobs "
            "and continue with --resume."
        ) from error


def _run(job: Job) -> list[Any]:
    try:
        workspace = _workspace(job.config)
    except (ConfigError, ModelError) as error:
        if not getattr(job, "optional", False):
            raise
        return [Refused(str(error))]
    return job.run(workspace)


@lru_cache(maxsize=_KITS)
def _workspace(config: str) -> EvalWorkspace:
    return EvalWorkspace.load(parse_config(config))


def _name(job: Job) -> str:
    return hashlib.sha256(repr(job).encode()).hexdigest()[:24]
