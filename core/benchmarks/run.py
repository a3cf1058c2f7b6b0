"""Contenders on benchmark tasks: jobs that are kept as they finish, and what they give."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from megacontext.core.benchmarks.tasks import BenchTask, file_digest, load_bench, score_of
from megacontext.core.config import Config
from megacontext.core.evaluation.contenders.base import Sample, sample_config
from megacontext.core.evaluation.contenders.registry import CONTENDERS, check_names, takes_part
from megacontext.core.evaluation.runner.job_pool import (
    JobProgress,
    Refused,
    Store,
    fingerprint,
    plain_config,
    run_jobs,
)
from megacontext.core.evaluation.sessions.base import AnswerResult, ContenderSession
from megacontext.core.evaluation.sessions.embedder import find_embedder
from megacontext.core.evaluation.sessions.evidence import MISREAD, NOT_SCORED
from megacontext.core.evaluation.sessions.history import token_spans
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.traces.errors import ConfigError

__all__ = ["BENCH_CONTENDERS", "AskJob", "BenchResult", "Unit", "contenders_for", "run_bench"]

BENCH_CONTENDERS = ("ours", "full", "recency", "bm25", "dense", "oracle_neighbours")
_PIECE = 16  # tokens decoded between two looks at the score


def contenders_for(names: str | None, embedder: str) -> tuple[list[str], list[str]]:
    """Contenders by their names joined by commas, and what a user should know about them.

    By default all of ``BENCH_CONTENDERS``, dense retrieval only where its model is there.

    Raises:
        ConfigError: an unknown name, or one whose model is not there.
    """
    if names is not None:
        chosen = check_names([name.strip() for name in names.split(",")])
        if "dense" in chosen:
            find_embedder(embedder)
        return chosen, []
    try:
        find_embedder(embedder)
    except ConfigError as error:
        if embedder:
            raise
        left = [name for name in BENCH_CONTENDERS if name != "dense"]
        return left, [f"dense retrieval takes no part: {error}"]
    return list(BENCH_CONTENDERS), []


@dataclass(frozen=True)
class BenchResult:
    """One contender on one task.

    Attributes:
        unit: see :class:`Unit`; what a later run finds it by.
        history: name of the history, for intervals over histories.
        score: in [0, 1].
        text: the answer.
        gold_raw: whether all gold was raw when the answer began; None where gold is unknown.
        cause: of a wrong answer with known gold, see :mod:`..evaluation.evidence`.
        reason: why gold was not expanded.
        rank: of the gold among what the lens scored, 1 is the best.
        lens_score: of the gold's best node.
        tokens: of the history and the question.
        seconds: of the question and its answer, reading of the history aside where it is shared.
    """

    unit: str
    benchmark: str
    name: str
    length: int
    sample: int
    history: str
    contender: str
    w_max: int
    score: float
    text: str
    outputs: tuple[str, ...]
    gold_raw: bool | None
    cause: str
    reason: str
    rank: int | None
    lens_score: float | None
    refocuses: int | None
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Unit:
    """A history and a contender: done as a whole, and never again with the same config, weights
    and tasks. A unit may have no result: an oracle without gold, a history that does not fit."""

    unit: str


@dataclass(frozen=True)
class AskJob:
    """Contenders on the tasks [first, first + count) of a file, all about one history."""

    config: str
    path: str
    digest: str
    weights: str
    first: int
    count: int
    contenders: tuple[str, ...]
    length: int
    name: str
    sample: int
    embedder: str

    @property
    def label(self) -> str:
        return f"{self.name} {self.length // 1024}k {' '.join(self.contenders)}"

    @property
    def weight(self) -> float:
        return float(self.length)

    def unit(self, contender: str) -> str:
        """Name of the unit of one of its contenders."""
        whole = (self.config, self.digest, self.weights, self.first, self.count, contender)
        used = self.embedder if contender == "dense" else ""
        return hashlib.sha256(repr((*whole, used)).encode()).hexdigest()[:24]

    def run(self, kit: EvalWorkspace) -> list[BenchResult | Unit]:
        kit.embedder = self.embedder
        tasks = load_bench(Path(self.path))[self.first : self.first + self.count]
        found: list[BenchResult | Unit] = []
        for contender in self.contenders:
            unit = self.unit(contender)
            for number, task in enumerate(tasks, self.first):
                result = ask(kit, task, contender, number, unit)
                found += [] if result is None else [result]
            found.append(Unit(unit))
        return found


def ask(
    kit: EvalWorkspace, task: BenchTask, contender: str, number: int, unit: str
) -> BenchResult | None:
    """The contender's answer and its score, or None where it cannot take part.

    A contender that draws, draws by ``number``.
    """
    history = kit.history(task.history)
    gold = token_spans(history.offsets, task.gold)
    prompt = kit.base.tokenizer.encode(task.question)
    read = len(history.tokens)
    needed = read + len(prompt) + task.max_tokens
    if not takes_part(contender, kit, gold, needed):
        return None

    # The answer, timed with its refocuses; the history was read before.
    start = time.perf_counter()
    config = sample_config(kit.config, number)
    session = CONTENDERS[contender].open(kit, Sample(config, history, read, gold))
    asked, text = _answer(session, task, prompt)
    score = score_of(text, task.outputs, task.metric)
    cause = _cause(asked) if score < 1 else ""
    evidence = asked.evidence
    return BenchResult(
        unit=unit,
        benchmark=task.benchmark,
        name=task.name,
        length=task.length,
        sample=task.sample,
        history=f"{task.name} {task.length} {task.group}",
        contender=contender,
        w_max=CONTENDERS[contender].budget(kit, config),
        score=score,
        text=text,
        outputs=task.outputs,
        gold_raw=asked.gold_raw,
        cause=cause,
        reason=evidence.reason if evidence is not None and cause else "",
        rank=None if evidence is None else evidence.rank,
        lens_score=None if evidence is None else evidence.score,
        refocuses=asked.refocuses,
        tokens=read + len(prompt),
        seconds=time.perf_counter() - start,
    )


def _cause(asked: AnswerResult) -> str:
    """Of a wrong answer; empty where gold is unknown."""
    if asked.evidence is not None:
        return asked.evidence.cause
    if asked.gold_raw is None:
        return ""
    return MISREAD if asked.gold_raw else NOT_SCORED


def _answer(
    session: ContenderSession, task: BenchTask, prompt: np.ndarray
) -> tuple[AnswerResult, str]:
    """The answer, up to where its score can grow no more or it ends.

    Where the score asks what the answer holds, more text never lowers it.
    """
    if task.stop or task.metric == "start":
        asked = session.ask(prompt, task.max_tokens, task.stop)
        return asked, asked.text
    asked = session.ask(prompt, min(_PIECE, task.max_tokens), "", reserve=task.max_tokens)
    text, done = asked.text, _PIECE
    while done < task.max_tokens and score_of(text, task.outputs, task.metric) < 1:
        more = session.continue_answer(min(_PIECE, task.max_tokens - done), "")
        if not more:
            break
        text, done = text + more, done + _PIECE
    return asked, text


def run_bench(
    config: Config,
    paths: Sequence[Path],
    contenders: Sequence[str],
    store_path: Path,
    *,
    names: Sequence[str] = (),
    samples: int = 0,
    workers: int = 1,
    embedder: str = "",
    progress: JobProgress = lambda *_: None,
) -> list[BenchResult]:
    """Every contender on every task of the files; what an earlier run finished is taken from
    ``store_path``, whatever its contenders, lengths or number of workers were.

    Args:
        names: only these tasks; empty: all.
        samples: only the first so many of each task and length; 0: all.

    Raises:
        ConfigError: two files that hold the same task and length, or none of ``names`` in them.
        MegaContextError: that of a job; finished jobs are kept.
    """
    plain, weights = plain_config(config), fingerprint(config)
    jobs = _jobs(plain, weights, paths, contenders, embedder)
    jobs = [
        replace(job, count=min(job.count, samples - job.sample) if samples else job.count)
        for job in jobs
        if (not names or job.name in names) and (not samples or job.sample < samples)
    ]
    if not jobs:
        raise ConfigError(f"--tasks: no file holds any of {', '.join(names)}; name others.")
    store = Store(store_path, True, "benchmarks", (BenchResult, Unit, Refused))
    done = {r.unit for results in store.done.values() for r in results if isinstance(r, Unit)}
    left: list[AskJob] = []
    for job in jobs:
        missing = tuple(c for c in job.contenders if job.unit(c) not in done)
        # One process: a contender at a time, so that a kill costs little. Several: a history's
        # contenders together, so that no two processes read the same history.
        parts = [(c,) for c in missing] if workers == 1 else [missing] if missing else []
        left += [replace(job, contenders=part) for part in parts]
    run_jobs(left, workers, store, progress)
    asked = {job.unit(c): i for i, job in enumerate(jobs) for c in job.contenders}
    found = [
        result
        for results in store.done.values()
        for result in results
        if isinstance(result, BenchResult) and result.unit in asked
    ]
    order = {name: i for i, name in enumerate(contenders)}
    unique = {(r.unit, r.sample): r for r in found}
    return sorted(unique.values(), key=lambda r: (asked[r.unit], order[r.contender], r.sample))


def _jobs(
    plain: str, weights: str, paths: Sequence[Path], contenders: Sequence[str], embedder: str
) -> list[AskJob]:
    """One job a history."""
    jobs: list[AskJob] = []
    seen: dict[tuple[str, str, int], Path] = {}
    for path in paths:
        first = 0
        for _, group in groupby(load_bench(path), key=lambda task: id(task.history)):
            own = list(group)
            task = own[0]

            # One file for a task and length: results are found again by both.
            where = seen.setdefault((task.benchmark, task.name, task.length), path)
            if where != path:
                raise ConfigError(
                    f"{where} and {path} both hold {task.name} at {task.length:,} tokens; name "
                    "one of them."
                )
            jobs.append(
                AskJob(
                    plain,
                    str(path.resolve()),
                    file_digest(path),
                    weights,
                    first,
                    len(own),
                    tuple(contenders),
                    task.length,
                    task.name,
                    task.sample,
                    embedder,
                )
            )
            first += len(own)
    return jobs
