"""Benchmark tasks as data: made in one place, run in another.

A file of tasks is JSON lines, plain or ``.xz``: a header, then histories and the questions about
each. A history is stored once however many questions are about it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from megacontext.core.sources.plain import open_text
from megacontext.traces.errors import SourceError, StorageError

__all__ = ["METRICS", "BenchTask", "file_digest", "load_bench", "score_of", "write_bench"]

Span = tuple[int, int]
_FORMAT = "megacontext benchmark tasks"
METRICS = ("all", "part", "start")
"""``all``: share of the expected texts that the answer holds; ``part``: whether it holds one of
them (RULER's ``string_match_all`` and ``string_match_part``); ``start``: whether it begins with
one of them, as a whole word."""


@dataclass(frozen=True)
class BenchTask:
    """A question about a history.

    Attributes:
        benchmark: what it is part of: ``ruler``, ``worlds``, ``needles``, ``facts``.
        name: the task's name in it.
        length: tokens that the history, the question and the answer may have together.
        sample: number within (name, length).
        history: the text.
        question: what is read after it as it stands, up to where the answer begins.
        outputs: expected texts.
        metric: of ``METRICS``.
        max_tokens: longest answer.
        stop: text that ends an answer; empty for none.
        gold: character spans [start, end) of ``history`` that hold what the answer needs.
        group: number of the history among those of (name, length).
    """

    benchmark: str
    name: str
    length: int
    sample: int
    history: str
    question: str
    outputs: tuple[str, ...]
    metric: str
    max_tokens: int
    stop: str = ""
    gold: tuple[Span, ...] = ()
    group: int = 0


def score_of(answer: str, outputs: Sequence[str], metric: str) -> float:
    """In [0, 1]; see ``METRICS``. Case does not matter.

    Control characters count as line ends and outer white space not at all, as RULER's
    ``postprocess_pred`` has it.
    """
    text = "".join("\n" if ord(c) < 32 else c for c in answer.strip()).strip().lower()
    matches = [output.lower() in text for output in outputs]
    match metric:
        case "all":
            return sum(matches) / len(matches)
        case "part":
            return float(any(matches))
        case _:
            return float(any(_starts(text, output.lower()) for output in outputs))


def _starts(text: str, output: str) -> bool:
    text = text.lstrip("\"'`“‘ ")
    rest = text[len(output) : len(output) + 1]
    return text.startswith(output) and not (output[-1:].isalnum() and rest.isalnum())


def write_bench(path: Path, tasks: Iterable[BenchTask], about: dict[str, Any]) -> None:
    """Write ``tasks``, those of one history in a row; replaced as a whole.

    Args:
        about: what they were made with, for the header.

    Raises:
        StorageError: the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _writer(part, path.suffix == ".xz") as file:
            _line(file, {"format": _FORMAT, "version": 1} | about)
            last = None
            for task in tasks:
                if task.history is not last:
                    _line(file, {"history": task.history})
                    last = task.history
                _line(file, _record(task))
        part.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error}).") from error


def _writer(path: Path, packed: bool) -> IO[str]:
    if packed:
        return lzma.open(path, "wt", encoding="utf-8")
    return path.open("w", encoding="utf-8")


def _line(file: IO[str], record: dict[str, Any]) -> None:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _record(task: BenchTask) -> dict[str, Any]:
    return {
        "benchmark": task.benchmark,
        "name": task.name,
        "length": task.length,
        "sample": task.sample,
        "question": task.question,
        "outputs": list(task.outputs),
        "metric": task.metric,
        "max_tokens": task.max_tokens,
        "stop": task.stop,
        "gold": [list(span) for span in task.gold],
        "group": task.group,
    }


@lru_cache(maxsize=4)
def file_digest(path: Path) -> str:
    """24 hex digits of the file's SHA-256.

    Raises:
        SourceError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read ({error.strerror or error}); name a file of benchmark tasks."
        ) from error
    return digest.hexdigest()[:24]


@lru_cache(maxsize=2)
def load_bench(path: Path) -> tuple[BenchTask, ...]:
    """The tasks of a file.

    Raises:
        SourceError: it cannot be read, holds something else, or a line is broken, by its number.
    """
    # A history stands before the questions about it, which share the string.
    tasks: list[BenchTask] = []
    history = ""
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                record = json.loads(line)
                if number == 1:
                    _check_header(path, record)
                elif "history" in record:
                    history = record["history"]
                else:
                    tasks.append(_task(history, record))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path} is no file of benchmark tasks ({error!s:.60}); make one with --save-tasks."
        ) from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SourceError(
            f"{path} cannot be read ({why}); name a file of benchmark tasks."
        ) from error
    if not tasks:
        raise SourceError(f"{path} holds no task; make one with --save-tasks.")
    return tuple(tasks)


def _check_header(path: Path, record: dict[str, Any]) -> None:
    if record.get("format") != _FORMAT:
        raise SourceError(f"{path} is no file of benchmark tasks; make one with --save-tasks.")
    if record.get("version") != 1:
        raise SourceError(
            f"{path} has format version {record.get('version')} and this program reads 1; make "
            "the tasks again."
        )


def _task(history: str, record: dict[str, Any]) -> BenchTask:
    gold = tuple((int(start), int(end)) for start, end in record.pop("gold"))
    outputs = tuple(record.pop("outputs"))
    return BenchTask(history=history, gold=gold, outputs=outputs, **record)
