"""Recall tasks and texts from JSON lines, checked line by line."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megacontext.core.model.tokenizer import Tokenizer
from megacontext.core.sources.plain import open_text
from megacontext.core.tree.spec import U32
from megacontext.core.utf8 import check_utf8
from megacontext.traces.errors import SourceError

__all__ = [
    "RecallTask",
    "Text",
    "answer_ids",
    "load_tasks",
    "load_texts",
    "prompt_ids",
    "prompt_of",
    "write_tasks",
]

TEMPLATE = "\nQuestion: {question}\nAnswer:"
Span = tuple[int, int]

_JSON_NAMES = (".jsonl", ".json", ".ndjson")


@dataclass(frozen=True)
class RecallTask:
    """A question about a history.

    Attributes:
        gold: character spans [start, end) of ``history`` that hold the answer; empty if unknown.
        kind: what sort of fact is asked for.
        times: length of the history in multiples of W_max, 0 if unknown.
    """

    history: str
    question: str
    answer: str
    gold: tuple[Span, ...] = ()
    kind: str = ""
    times: int = 0


@dataclass(frozen=True)
class Text:
    """A document: its name, its domain (empty if unknown) and its text."""

    name: str
    domain: str
    text: str


def prompt_of(question: str, template: str = TEMPLATE) -> str:
    """What the model reads: ``question`` in the template.

    A question with a line break in it brings its own prompt and is taken as it is.
    """
    return question if "\n" in question else template.replace("{question}", question)


def prompt_ids(tokenizer: Tokenizer, question: str, template: str | None = None) -> U32:
    """What the model reads, as tokens.

    A ``template`` is taken as it stands; without one the question is a user's turn in the model's
    chat format, or stands in :data:`TEMPLATE` where it has none.
    """
    if template is None and tokenizer.chat is not None:
        return tokenizer.turn(question)
    return tokenizer.encode(prompt_of(question, template or TEMPLATE))


def answer_ids(tokenizer: Tokenizer, answer: str) -> U32:
    """The answer as it follows :func:`prompt_ids` without a template."""
    return tokenizer.encode(answer if tokenizer.chat is not None else " " + answer)


def load_tasks(path: Path, limit: int | None = None) -> list[RecallTask]:
    """The first ``limit`` tasks of a JSON-lines file (plain or ``.xz``).

    Raises:
        SourceError: no such file, an empty one, or a line that is no task, by its number.
    """
    tasks: list[RecallTask] = []
    for where, record in _records(path):
        if limit is not None and len(tasks) >= limit:
            break
        tasks.append(_task(record, where))
    if not tasks:
        raise SourceError(f"{path} holds no task; write one JSON object per line.")
    return tasks


def load_texts(path: Path, limit: int | None = None) -> list[Text]:
    """The first ``limit`` texts of a JSON-lines file (plain or ``.xz``) with a ``text`` field.

    A file of another name whose text does not begin with ``{`` is one text as it stands.

    Raises:
        SourceError: as :func:`load_tasks`.
    """
    plain = _plain_text(path)
    if plain is not None:
        return [Text(path.name, "", plain)]
    texts = []
    for number, (where, record) in enumerate(_records(path)):
        if limit is not None and number >= limit:
            break
        name = str(record.get("doc", f"line {number + 1}"))
        texts.append(Text(name, str(record.get("domain", "")), _field(record, "text", where)))
    if not texts:
        raise SourceError(f"{path} holds no text; write one JSON object with a 'text' per line.")
    return texts


def write_tasks(path: Path, tasks: Sequence[RecallTask]) -> None:
    """One JSON object per line; :func:`load_tasks` reads it back."""
    with path.open("w", encoding="utf-8") as file:
        for task in tasks:
            record = asdict(task)
            gold = [list(span) for span in task.gold]
            record["gold"] = gold[0] if len(gold) == 1 else gold
            if not gold:
                del record["gold"]
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _plain_text(path: Path) -> str | None:
    """The whole file, where it is plain text; None where it is JSON lines, empty or unreadable."""
    if path.name.removesuffix(".xz").endswith(_JSON_NAMES):
        return None
    try:
        with open_text(path) as file:
            text = file.read()
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError):
        return None  # refused with its reason where the lines are read
    return text if text.strip() and not text.lstrip().startswith("{") else None


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    where = f"{path} line {number}"
                    yield where, _object(line, where)
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{path} cannot be read ({reason}); name a JSON-lines file.") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(
            f"{where} is not JSON ({error.msg}); write one object per line."
        ) from None
    if not isinstance(record, dict):
        raise SourceError(f"{where} is no JSON object; write one object per line.")
    return record


def _field(record: dict[str, Any], name: str, where: str) -> str:
    if name not in record:
        raise SourceError(f"{where} has no {name!r}; add that field.")
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise SourceError(f"{where}: {name!r} is {value!r:.40}; give a text that is not empty.")
    return check_utf8(value, f"{where}: {name!r}")


def _task(record: dict[str, Any], where: str) -> RecallTask:
    history = _field(record, "history", where)
    times = record.get("times", 0)
    return RecallTask(
        history,
        _field(record, "question", where),
        _field(record, "answer", where),
        _gold(record.get("gold"), len(history), where),
        str(record.get("kind", "")),
        times if isinstance(times, int) else 0,
    )


def _gold(value: object, length: int, where: str) -> tuple[Span, ...]:
    if value is None or value == []:
        return ()
    multiple = isinstance(value, list) and isinstance(value[0], list)
    spans: list[Any] = value if isinstance(value, list) and multiple else [value]
    for span in spans:
        if not (isinstance(span, list) and len(span) == 2 and all(type(x) is int for x in span)):
            raise SourceError(
                f"{where}: gold is {value!r:.60}; it must be [start, end], or a list of these."
            )
        if not 0 <= span[0] < span[1] <= length:
            raise SourceError(
                f"{where}: gold {span} lies outside the history's {length} characters; "
                "give character offsets with 0 <= start < end."
            )
    return tuple((span[0], span[1]) for span in spans)
