"""The jobs of an evaluation: one history of recall tasks, one document, one session."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from megacontext.core.config import parse_config
from megacontext.core.evaluation.runner.job_pool import Refused
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.evaluation.tasks.answer_nll import evaluate_answers
from megacontext.core.evaluation.tasks.corpora import documents_from, texts_from
from megacontext.core.evaluation.tasks.nll import NLLOptions, Piece, evaluate_nll
from megacontext.core.evaluation.tasks.recall import Result, evaluate_recall
from megacontext.core.evaluation.tasks.recall_tasks import RecallTask, Text
from megacontext.core.evaluation.tasks.session_health import Health, measure_session
from megacontext.core.evaluation.tasks.single_gist import evaluate_single
from megacontext.core.evaluation.tasks.synthesize import TaskGenConfig, TaskGenerator

__all__ = [
    "RESULTS",
    "AnswersJob",
    "NLLJob",
    "RecallJob",
    "SessionJob",
    "SingleJob",
    "Sources",
]


@dataclass(frozen=True)
class Sources:
    """Where texts come from: JSON-lines files, or the running Python's library.

    ``parts``: documents that the library's two texts are cut into, each.
    """

    files: tuple[str, ...] = ()
    parts: int = 8

    def haystacks(self) -> list[Text]:
        """Texts to hide facts in."""
        return _haystacks(self.files)

    def documents(self) -> list[Text]:
        """Documents for NLL, with their domains."""
        return _documents(self.files, self.parts)


@lru_cache(maxsize=1)
def _haystacks(files: tuple[str, ...]) -> list[Text]:
    return texts_from([Path(file) for file in files])


@lru_cache(maxsize=1)
def _documents(files: tuple[str, ...], parts: int) -> list[Text]:
    return documents_from(_haystacks(files), 1 if files else parts)


@dataclass(frozen=True)
class RecallJob:
    """Every contender on the tasks about one history; ``number`` is that of the first."""

    config: str
    sources: Sources
    tasks: TaskGenConfig
    times: int
    first: int
    number: int
    contenders: tuple[str, ...]
    follow: bool = False
    optional: bool = False

    @property
    def label(self) -> str:
        return f"recall at {self.times}×"

    @property
    def weight(self) -> float:
        count = len(self.tasks.kinds_of(self.first))
        return count * len(self.contenders) + self.times / 2

    def run(self, workspace: EvalWorkspace) -> list[Result]:
        tasks = _tasks(workspace, self.sources, self.tasks, self.times, self.first)
        return evaluate_recall(
            workspace, tasks, self.contenders, follow=self.follow, first=self.number
        )


def _tasks(
    workspace: EvalWorkspace, sources: Sources, tasks: TaskGenConfig, times: int, first: int
) -> list[RecallTask]:
    backend = workspace.base.tokenizer.hf.backend_tokenizer
    factory = TaskGenerator(tasks, backend, sources.haystacks(), workspace.config.block_size)
    return factory.of_history(times, first)


@dataclass(frozen=True)
class NLLJob:
    """Every contender at every budget on one piece of one document, if it has that many."""

    config: str
    sources: Sources
    document: int
    piece: int
    options: NLLOptions
    contenders: tuple[str, ...]
    follow: bool = False
    optional: bool = False

    @property
    def label(self) -> str:
        return "NLL"

    @property
    def weight(self) -> float:
        rows = sum(self.options.w_max) / 1024 * len(self.contenders) + 6
        return rows * (1 + self.options.stretches / 8)

    def run(self, workspace: EvalWorkspace) -> list[Piece]:
        text = self.sources.documents()[self.document]
        return evaluate_nll(
            workspace,
            [text],
            self.contenders,
            self.options,
            follow=self.follow,
            first=self.document,
            only=self.piece,
        )


@dataclass(frozen=True)
class AnswersJob:
    """NLL of the answers to the questions about one history."""

    config: str
    sources: Sources
    tasks: TaskGenConfig
    times: int
    first: int
    contenders: tuple[str, ...]
    w_max: tuple[int, ...]

    @property
    def label(self) -> str:
        return "recall text"

    @property
    def weight(self) -> float:
        rows = sum(self.w_max) / 1024 * len(self.contenders) + 6
        return rows * len(self.tasks.kinds_of(self.first))

    def run(self, workspace: EvalWorkspace) -> list[Piece]:
        tasks = _tasks(workspace, self.sources, self.tasks, self.times, self.first)
        name = f"history {self.first // self.tasks.per_history}"
        return evaluate_answers(workspace, tasks, self.contenders, self.w_max, name, self.first)


@dataclass(frozen=True)
class SingleJob:
    """One block replaced by its gist, in one document."""

    config: str
    sources: Sources
    document: int
    pieces: int

    @property
    def label(self) -> str:
        return "single gists"

    @property
    def weight(self) -> float:
        return self.pieces * 4.0

    def run(self, workspace: EvalWorkspace) -> list[Piece]:
        text = self.sources.documents()[self.document]
        return evaluate_single(workspace, [text], self.pieces, first=self.document)


@dataclass(frozen=True)
class SessionJob:
    """A session over library code: swap rate, residency, violations."""

    config: str
    tokens: int

    @property
    def label(self) -> str:
        return "session"

    @property
    def weight(self) -> float:
        return self.tokens / 256

    def run(self, workspace: EvalWorkspace) -> list[Health]:
        config = replace(parse_config(self.config), tree=workspace.config.tree)
        return [measure_session(config, self.tokens)]


RESULTS = (Result, Piece, Health, Refused)
"""What jobs give."""
