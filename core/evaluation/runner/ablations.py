"""Ablations: tables of config variants, each judged by recall and by NLL at one budget.

In all variants the window follows the refocuses by the session's own edits, so that ``splice``
and ``exact`` differ; recall is that of ``ours`` and, as the ceiling of what the variant's window
lets the model answer, of ``oracle``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from megacontext.core.config import Config, build, dump_config, parse_config
from megacontext.core.config.parser import read_mapping
from megacontext.core.evaluation.results.metrics import Metric, metric
from megacontext.core.evaluation.runner.job_pool import (
    Job,
    JobProgress,
    Refused,
    Store,
    fingerprint,
    plain_config,
    run_jobs,
)
from megacontext.core.evaluation.runner.job_specs import RESULTS, NLLJob, RecallJob, Sources
from megacontext.core.evaluation.runner.suite import Suite
from megacontext.core.evaluation.tasks.nll import NLLOptions, Piece
from megacontext.core.evaluation.tasks.nll_metrics import paired_difference, summarize_nll
from megacontext.core.evaluation.tasks.recall import Result, summarize_recall
from megacontext.core.evaluation.tasks.recall_tasks import Text
from megacontext.core.evaluation.tasks.synthesize import TaskGenConfig
from megacontext.traces.errors import ConfigError

__all__ = ["AblationPlan", "AblationSizes", "load_plan", "run_ablations"]

_RECALL = ("ours", "oracle")
_NLL = ("ours", "delete")


@dataclass(frozen=True)
class AblationSizes:
    """How much each variant is measured.

    Attributes:
        samples: recall tasks.
        per_history: of them about one history.
        times: length of their histories in multiples of W_max.
        documents: texts for NLL, of each domain.
        pieces: windows of each.
        stretches: times that ``ΔNLL@64`` is measured at the end of each, one after the other.
        lead: blocks that are read with refocuses before the scored tokens.
    """

    samples: int = 48
    per_history: int = 16
    times: int = 16
    documents: int = 8
    pieces: int = 1
    stretches: int = 1
    lead: int = 32


@dataclass(frozen=True)
class PlanFile:
    """The keys of a plan's file.

    Attributes:
        tables: table -> variant -> settings (``key.path=value``) over ``run``.
        run: a run's config.
        full, quick: how much is measured without and with ``--quick``.
    """

    tables: dict[str, dict[str, list[str] | None]]
    run: dict[str, Any] = field(default_factory=dict)
    full: AblationSizes = field(default_factory=AblationSizes)
    quick: AblationSizes = field(default_factory=AblationSizes)


@dataclass(frozen=True)
class AblationPlan:
    """What to run: table -> variant -> settings over ``run`` and ``overrides``."""

    run: dict[str, Any]
    tables: dict[str, dict[str, tuple[str, ...]]]
    full: AblationSizes = field(default_factory=AblationSizes)
    quick: AblationSizes = field(default_factory=AblationSizes)
    overrides: tuple[str, ...] = ()

    def config(self, settings: Sequence[str] = ()) -> Config:
        """The config of a variant.

        Raises:
            ConfigError: an illegal setting.
        """
        return parse_config(yaml.safe_dump(self.run), [*self.overrides, *settings])


def load_plan(path: Path) -> AblationPlan:
    """The plan in a YAML file with ``run``, ``tables`` and optionally ``full`` and ``quick``.

    Raises:
        ConfigError: not such a file, or a variant with an illegal setting, by its name.
    """
    raw = read_mapping(path, "--plan")
    if not isinstance(raw.get("tables"), Mapping):
        raise ConfigError(f"--plan {path} has no 'tables'; see configs/eval/ablations.yaml.")
    file = build(PlanFile, raw)
    tables: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, listed in file.tables.items():
        if not listed:
            raise ConfigError(f"tables.{name} is empty; map names of variants to settings.")
        tables[name] = {variant: tuple(settings or ()) for variant, settings in listed.items()}

    # Every variant is checked before anything runs.
    plan = AblationPlan(file.run, tables, file.full, file.quick)
    for variants in plan.tables.values():
        for settings in variants.values():
            plan.config(settings)
    return plan


def run_ablations(
    plan: AblationPlan,
    sizes: AblationSizes,
    sources: Sources,
    store_path: Path,
    *,
    workers: int = 1,
    resume: bool = False,
    progress: JobProgress = lambda *_: None,
) -> tuple[Suite, list[str]]:
    """All variants; also sentences on those that cannot run here.

    Variants with the same config, as the reference in several tables, are measured once.
    """
    sources = replace(sources, parts=sizes.documents)

    # One set of jobs for each different config.
    jobs: dict[str, list[Job]] = {}
    for variants in plan.tables.values():
        for settings in variants.values():
            config = plan.config(settings)
            jobs.setdefault(dump_config(config), _jobs(config, sizes, sources))
    store = Store(store_path, resume, fingerprint(plan.config()), RESULTS)
    every = [job for of_config in jobs.values() for job in of_config]
    results = iter(run_jobs(every, workers, store, progress))
    by_config = {
        key: [result for _ in of_config for result in next(results)]
        for key, of_config in jobs.items()
    }

    # The rows of each table; its first variant is the reference.
    rows: list[Metric] = []
    notes: dict[str, None] = {}
    records: dict[str, list[Any]] = {}
    for table, variants in plan.tables.items():
        reference = by_config[dump_config(plan.config(next(iter(variants.values()))))]
        for variant, settings in variants.items():
            config = plan.config(settings)
            of_variant = by_config[dump_config(config)]
            for refused in (r for r in of_variant if isinstance(r, Refused)):
                notes[f"{table}, {variant} was left out: {refused.reason.rstrip('.')}"] = None
            rows += _metrics(table, variant, of_variant, reference, sizes, config)
            records[f"{table}, {variant}"] = of_variant
    return Suite(rows, records), list(notes)


def _jobs(config: Config, sizes: AblationSizes, sources: Sources) -> list[Job]:
    plain = plain_config(config)
    tasks = TaskGenConfig(
        config.w_max,
        (sizes.times,),
        sizes.samples,
        per_history=sizes.per_history,
        seed=config.seed,
    )
    cut = NLLOptions(
        (config.w_max,), pieces=sizes.pieces, lead=sizes.lead, stretches=sizes.stretches
    )

    recall = [
        RecallJob(plain, sources, tasks, times, first, first, _RECALL, True, True)
        for times, first in tasks.histories()
    ]
    documents = _first_of_each_domain(sources.documents(), sizes.documents)
    return [
        *recall,
        *(
            NLLJob(plain, sources, number, piece, cut, _NLL, True, True)
            for number in documents
            for piece in range(cut.pieces)
        ),
    ]


def _first_of_each_domain(texts: Sequence[Text], count: int) -> list[int]:
    """Numbers of the first ``count`` texts of every domain."""
    seen: Counter[str] = Counter()
    numbers = []
    for number, text in enumerate(texts):
        seen[text.domain] += 1
        if seen[text.domain] <= count:
            numbers.append(number)
    return numbers


def _metrics(
    table: str,
    variant: str,
    results: Sequence[Any],
    reference: Sequence[Any],
    sizes: AblationSizes,
    config: Config,
) -> list[Metric]:
    """The rows of one variant; ``reference`` are the results of the table's first one."""
    rows: list[Metric] = []
    parts = [result for result in results if isinstance(result, Piece)]

    # Recall of ours, and of the oracle as the ceiling of the variant's window.
    length = f"{sizes.times}×"
    recall = summarize_recall([result for result in results if isinstance(result, Result)])
    for name in (n for n in _RECALL if n in recall):
        column = length if name == "ours" else f"{name}, {length}"
        m = recall[name].overall
        rows.append(metric("recall", table, column, variant, m.accuracy, m.interval, m.count))
    if "ours" in recall and (fraction := recall["ours"].overall.gold_expanded) is not None:
        m = recall["ours"].overall
        rows.append(
            metric("gold expanded", table, length, variant, fraction, m.gold_interval, m.count)
        )

    # NLL against the full history, and against the first variant piece by piece.
    column = f"W_max {config.w_max}"
    nll = summarize_nll(parts, config.seed) if parts else {}
    if "ours" in nll:
        of_ours = nll["ours"].first.overall
        for measure, value, interval in (
            ("ΔNLL@64", of_ours.delta_nll, of_ours.interval),
            ("recovered gain", of_ours.recovered_gain, of_ours.recovered_gain_interval),
        ):
            if value is not None:
                rows.append(metric(measure, table, column, variant, value, interval, of_ours.count))
    if results is not reference:
        of_reference = [result for result in reference if isinstance(result, Piece)]
        above = paired_difference(parts, of_reference, "ours", config.seed)
        if above is not None:
            rows.append(
                metric(
                    "NLL above the first row",
                    table,
                    column,
                    variant,
                    above.value,
                    above.interval,
                    above.count,
                )
            )
    return rows
