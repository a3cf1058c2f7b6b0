"""Sources that are one long text: a file, a folder, Python code, a corpus document, stdin.

Each is a generator of text pieces; :func:`ingest_events` cuts them into tokens.
"""

from __future__ import annotations

import errno
import io
import lzma
import os
import sys
from collections.abc import Iterator
from json import JSONDecodeError, loads
from pathlib import Path
from typing import IO

from megacontext.core.config.sources import CorpusSource, FolderSource, TextSource
from megacontext.core.sources.events import Ingest, Tokenizer
from megacontext.core.utf8 import check_utf8
from megacontext.traces.errors import SourceError

__all__ = [
    "check_file",
    "corpus_texts",
    "folder_texts",
    "header",
    "ingest_events",
    "open_text",
    "stdin_texts",
    "text_texts",
]

PIECE_CHARS = 1 << 16


def header(name: str) -> str:
    """The line that announces a file inside a long document."""
    return f"# ==== {name} ====\n"


def printable(name: str) -> str:
    """A file name as text; bytes of it that are no UTF-8 read as U+FFFD."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def check_file(name: str, key: str) -> None:
    """Refuse a path that leads to no file; the file is not opened.

    Raises:
        SourceError: ``key`` names nothing, or a folder.
    """
    path = Path(name)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.stat()
    except OSError as error:
        raise _unreadable(key, path, error) from error


def text_texts(source: TextSource) -> Iterator[str]:
    """The pieces of one UTF-8 file, cut at line ends."""
    path = Path(source.path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from _pieces(file, str(path), "source.path")
    except OSError as error:
        raise _unreadable("source.path", path, error) from error


def folder_texts(source: FolderSource) -> Iterator[str]:
    """The UTF-8 files of a folder in path order, each after its header line."""
    root = Path(source.path)
    if not root.is_dir():
        raise SourceError(f"source.path is {source.path!r}, not a folder; name an existing folder.")
    paths = sorted(p for p in root.glob(source.pattern) if p.is_file())
    if not paths:
        raise SourceError(
            f"source.pattern {source.pattern!r} matches no file in {root}; widen the pattern."
        )
    for path in paths:
        name = printable(path.relative_to(root).as_posix())
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{path} is not UTF-8 at byte {error.start}; convert it or narrow source.pattern."
            ) from error
        except OSError as error:
            raise _unreadable("source.path", path, error) from error
        yield header(name) + text.rstrip("\n") + "\n\n"


def corpus_texts(source: CorpusSource) -> Iterator[str]:
    """The ``text`` of one line of a JSON-lines file, plain or xz-compressed."""
    path = Path(source.path)
    try:
        with open_text(path) as file:
            for number, line in enumerate(file):
                if number == source.document:
                    yield from _pieces(io.StringIO(_text_of(line, path, number)), str(path), "")
                    return
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise _unreadable("source.path", path, error) from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text; convert it to UTF-8.") from error
    raise SourceError(
        f"source.document is {source.document} but {path} has fewer lines; use a smaller number."
    )


def stdin_texts() -> Iterator[str]:
    """Standard input as it comes, line by line."""
    stream = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", newline="")
    try:
        yield from stream
    except UnicodeDecodeError as error:
        raise SourceError(
            f"Standard input is not UTF-8 text (byte {error.start}); convert it to UTF-8."
        ) from error


def ingest_events(
    texts: Iterator[str], tokenizer: Tokenizer, max_tokens: int, label: str
) -> Iterator[Ingest]:
    """Tokens of the pieces, at most ``max_tokens`` of them (0: all).

    Raises:
        SourceError: ``label`` holds no text at all.
    """
    taken = 0
    for text in texts:
        tokens = tokenizer.encode(text)
        if max_tokens:
            tokens = tokens[: max_tokens - taken]
        if len(tokens):
            taken += len(tokens)
            yield Ingest(tokens)
        if max_tokens and taken >= max_tokens:
            return
    if not taken:
        raise SourceError(f"{label} holds no text; give it some.")


def _pieces(file: IO[str], name: str, key: str) -> Iterator[str]:
    try:
        while lines := file.readlines(PIECE_CHARS):
            yield "".join(lines)
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{key or 'source'} {name} is not UTF-8 at byte {error.start}; convert it to UTF-8."
        ) from error


def open_text(path: Path) -> IO[str]:
    """A UTF-8 file, plain or ``.xz``."""
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        text = loads(line)["text"]
    except (JSONDecodeError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} line {number + 1} is not a JSON object with a 'text'; see JSON Lines."
        ) from error
    if not isinstance(text, str):
        raise SourceError(f"{path} line {number + 1}: 'text' must be a string.")
    return check_utf8(text, f"{path} line {number + 1}")


def _unreadable(key: str, path: Path, error: Exception) -> SourceError:
    reason = getattr(error, "strerror", None) or str(error)
    return SourceError(f"{key} {str(path)!r} cannot be read ({reason}); name a readable file.")
