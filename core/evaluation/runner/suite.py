"""The suite: recall, NLL, single gists, health and cost of refocusing, beside their targets.

Everything is cut into jobs (:mod:`.jobs`), so that processes share the work and an interrupted
suite continues. Cost by length of history is measured by ``megacontext bench decode``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.core.config import Config
from megacontext.core.evaluation.contenders.registry import CONTENDERS, check_names
from megacontext.core.evaluation.results.metrics import (
    Metric,
    health_metrics,
    nll_metrics,
    overhead_metrics,
    recall_metrics,
    single_metrics,
)
from megacontext.core.evaluation.runner.job_pool import (
    Job,
    JobProgress,
    Store,
    fingerprint,
    plain_config,
    run_jobs,
)
from megacontext.core.evaluation.runner.job_specs import (
    RESULTS,
    AnswersJob,
    NLLJob,
    RecallJob,
    SessionJob,
    SingleJob,
    Sources,
)
from megacontext.core.evaluation.tasks.nll import NLL_CONTENDERS, NLLOptions
from megacontext.core.evaluation.tasks.overhead import overhead_of
from megacontext.core.evaluation.tasks.synthesize import DEFAULT_KINDS, TaskGenConfig
from megacontext.core.model import BaseModel
from megacontext.traces.errors import ConfigError, SourceError

__all__ = ["FULL", "QUICK", "SECTIONS", "Suite", "SuiteOptions", "recall_jobs", "run_suite"]

_ASKED = tuple(n for n in CONTENDERS if n not in ("echo", "dense", "oracle_neighbours"))
"""What answers questions; an echo expands nothing there, and the others belong to benchmarks."""
SECTIONS = ("recall", "nll", "answers", "single", "session", "overhead")


@dataclass(frozen=True)
class SuiteOptions:
    """Sizes.

    Attributes:
        samples: recall tasks of each length.
        times: lengths of the histories in multiples of W_max.
        kinds: of recall tasks, empty for all usual ones.
        contenders: of the recall section; empty: all.
        w_max: budgets for NLL.
        pieces: windows of a document for NLL.
        stretches: times that ``ΔNLL@64`` is measured at the end of each, one after the other.
        singles: windows of a document for single gists.
        parts: documents that each of the library's texts is cut into.
        answers: questions of the recall text.
        session_times: length of the session in multiples of W_max.
        cycles: blocks decoded for the cost of refocusing.
        sections: of ``SECTIONS``.
    """

    samples: int = 104
    times: tuple[int, ...] = (4, 16, 64)
    kinds: tuple[str, ...] = ()
    contenders: tuple[str, ...] = ()
    w_max: tuple[int, ...] = (512, 1024, 2048)
    pieces: int = 2
    stretches: int = 4
    singles: int = 4
    parts: int = 16
    answers: int = 40
    session_times: int = 32
    cycles: int = 40
    sections: tuple[str, ...] = SECTIONS


FULL = SuiteOptions()
QUICK = SuiteOptions(
    samples=32,
    pieces=1,
    stretches=1,
    singles=2,
    parts=5,
    answers=12,
    session_times=8,
    cycles=16,
)


@dataclass(frozen=True)
class Suite:
    """What came out: the rows of the table, and every single result by section."""

    rows: list[Metric]
    singles: dict[str, list[Any]]


def run_suite(
    config: Config,
    base: BaseModel,
    sources: Sources,
    options: SuiteOptions,
    store_path: Path,
    *,
    workers: int = 1,
    resume: bool = False,
    progress: JobProgress = lambda *_: None,
) -> Suite:
    """Run the sections and judge them.

    Args:
        config: resolved: its kinds are plain.
        base: of the config, for its trained window and for the cost of refocusing.
        store_path: finished jobs, see :class:`.jobs.Store`.

    Raises:
        ConfigError: an unknown section or contender, or sizes that cannot be.
        SourceError: texts too short.
    """
    for name in options.sections:
        if name not in SECTIONS:
            raise ConfigError(f"--only: {name!r} is unknown; use some of {', '.join(SECTIONS)}.")

    # The jobs of each section.
    contenders = tuple(check_names(list(options.contenders or _ASKED)))
    plain = plain_config(config)
    budgets = tuple(w for w in options.w_max if w < base.window - 64) or (config.w_max,)
    plans: dict[str, Callable[[], Sequence[Job]]] = {
        "recall": lambda: recall_jobs(plain, config, sources, options, contenders),
        "nll": lambda: _nll_jobs(plain, sources, options, budgets, base.window),
        "answers": lambda: _answers_jobs(plain, config, sources, options, budgets, base.window),
        "single": lambda: _single_jobs(plain, sources, options),
        "session": lambda: [SessionJob(plain, options.session_times * config.w_max)],
    }
    planned: dict[str, list[Job]] = {
        name: list(plans[name]()) for name in options.sections if name in plans
    }

    # Run them all, and sort the results back by section.
    store = Store(store_path, resume, fingerprint(config), RESULTS)
    every = [job for jobs in planned.values() for job in jobs]
    results = run_jobs(every, workers, store, progress)
    records: dict[str, list[Any]] = {name: [] for name in planned}
    owners = [name for name, jobs in planned.items() for _ in jobs]
    for name, of_job in zip(owners, results, strict=True):
        records[name] += of_job

    _check_texts(records)

    # Metrics and their targets.
    rows: list[Metric] = []
    rows += recall_metrics(records.get("recall", []))
    nll = records.get("nll", []), records.get("answers", [])
    rows += [row for part in nll for row in nll_metrics(part, config.seed, base.window)]
    rows += single_metrics(records.get("single", []), config.seed)
    rows += health_metrics(records.get("session", []))
    if "overhead" in options.sections:  # last and alone: other processes would be in the figure
        progress(len(every), len(every), "overhead")
        rows += overhead_metrics(overhead_of(config, options.cycles))
    return Suite(rows, {name: of_section for name, of_section in records.items() if of_section})


def _check_texts(singles: dict[str, list[Any]]) -> None:
    for name in ("nll", "single"):
        if name in singles and not singles[name]:
            raise SourceError(
                f"--text has no document that is long enough for {name}; give longer ones, or "
                "leave it out with --only."
            )


def recall_jobs(
    plain: str,
    config: Config,
    sources: Sources,
    options: SuiteOptions,
    contenders: tuple[str, ...],
) -> list[RecallJob]:
    """One job a history."""
    tasks = TaskGenConfig(
        config.w_max, options.times, options.samples, options.kinds, seed=config.seed
    )
    jobs, number = [], 0
    for times, first in tasks.histories():
        jobs.append(RecallJob(plain, sources, tasks, times, first, number, contenders))
        number += len(tasks.kinds_of(first))
    return jobs


def _nll_jobs(
    plain: str, sources: Sources, options: SuiteOptions, budgets: tuple[int, ...], window: int
) -> list[NLLJob]:
    segments = max(1, min(options.stretches, window // 1024))  # small models: most is history
    cut = NLLOptions(budgets, pieces=options.pieces, stretches=segments)
    return [
        NLLJob(plain, sources, number, piece, cut, tuple(NLL_CONTENDERS))
        for number in range(len(sources.documents()))
        for piece in range(cut.pieces)
    ]


def _answers_jobs(
    plain: str,
    config: Config,
    sources: Sources,
    options: SuiteOptions,
    budgets: tuple[int, ...],
    window: int,
) -> list[AnswersJob]:
    """Histories of the trained window; facts are older than the largest budget."""
    widest = max(budgets)
    times = max(2, window // widest)
    tasks = TaskGenConfig(
        widest,
        (times,),
        options.answers,
        options.kinds or DEFAULT_KINDS,
        facts=2,
        per_history=2,
        seed=config.seed,
    )
    contenders = (*NLL_CONTENDERS, "oracle")
    return [
        AnswersJob(plain, sources, tasks, times, first, contenders, budgets)
        for _, first in tasks.histories()
    ]


def _single_jobs(plain: str, sources: Sources, options: SuiteOptions) -> list[SingleJob]:
    return [
        SingleJob(plain, sources, number, options.singles)
        for number in range(len(sources.documents()))
    ]
