"""Where training text comes from: files, JSON Lines, folders, installed Python packages.

A reader yields :class:`Document` objects in a fixed order. Text that is not UTF-8 is refused
with the file and the byte; a directory walk is sorted, so the order never depends on the disk.
"""

from __future__ import annotations

import importlib.util
import json
import lzma
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megacontext.traces.errors import SourceError

__all__ = ["Document", "Source", "read", "read_texts"]

Kind = Literal["text", "jsonl", "folder", "packages", "stdlib"]


@dataclass(frozen=True)
class Document:
    """One text and where it belongs; ``domain`` is what batches are mixed by."""

    name: str
    domain: str
    text: str


@dataclass(frozen=True)
class Source:
    """One entry of a data configuration.

    Attributes:
        kind: ``text`` (one file, one document), ``jsonl`` (.jsonl or .jsonl.xz with a ``text``
            field), ``folder`` (its files joined), ``packages`` (installed Python packages by
            import name, one document each), ``stdlib`` (Python's own library).
        path: file or folder; not used by ``packages`` and ``stdlib``.
        domain: overrides the record's own ``domain``.
        names: import names for ``packages``.
        suffixes: which files of a folder count.
        max_chars: longest document of a folder or package; the rest is left out.
        missing_ok: a package that is not installed is skipped instead of refused.
        licence: recorded in the shards' metadata.
    """

    kind: Kind
    path: str = ""
    domain: str = ""
    names: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = (".py",)
    max_chars: int = 3_000_000
    missing_ok: bool = False
    licence: str = ""


def read(source: Source) -> Iterator[Document]:
    """The documents of ``source``, in a fixed order.

    Raises:
        SourceError: the path is missing, a file is not UTF-8, a record has no text.
    """
    if source.kind == "jsonl":
        yield from _jsonl(source)
    elif source.kind == "text":
        path = _file(source.path)
        yield Document(path.name, source.domain or "text", _decode(path, path.read_bytes()))
    elif source.kind == "folder":
        root = _existing(source.path)
        yield from _concatenated(root.name, root, source)
    elif source.kind == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        yield from _concatenated(
            "stdlib", root, source, skip=("site-packages", "dist-packages"), strict=False
        )
    else:
        for name in source.names:
            yield from _package(name, source)


def read_texts(sources: Iterable[Source], progress: Callable[[int], None]) -> Iterator[str]:
    """The texts of all sources; ``progress`` is called with the characters of each.

    Raises:
        SourceError: there is no text, or a source is missing or not UTF-8.
    """
    empty = True
    for source in sources:
        for document in read(source):
            empty = False
            progress(len(document.text))
            yield document.text
    if empty:
        raise SourceError("sources: they hold no document; name a source with text.")


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        raise SourceError(f"sources.path: {path} does not exist; name an existing file or folder.")
    return path


def _file(name: str) -> Path:
    path = _existing(name)
    if not path.is_file():
        raise SourceError(f"sources.path: {path} is no file; name one, or use kind folder.")
    return path


def _decode(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"sources.path: {path} is not UTF-8 at byte {error.start}; convert it first, for "
            "example with `iconv -t utf8`."
        ) from error
    return text.replace("\r\n", "\n")


def _jsonl(source: Source) -> Iterator[Document]:
    path = _file(source.path)
    opener = lzma.open if path.suffix == ".xz" else open

    # Line and byte numbers go into the errors.
    number = start = stop = records = 0
    try:
        with opener(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                start, stop = stop, stop + len(line)
                if not line.strip():
                    continue
                record = json.loads(line.decode("utf8"))
                if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                    raise SourceError(
                        f"sources.path: line {number} of {path} has no `text` string; write one "
                        "JSON object with a `text` field per line."
                    )
                name = str(record.get("doc", f"{path.name}:{number}"))
                domain = source.domain or str(record.get("domain", "text"))
                yield Document(name, domain, record["text"])
                records += 1
    except UnicodeDecodeError as error:
        raise SourceError(
            f"sources.path: {path} is not UTF-8 in line {number} at byte {start + error.start}; "
            "convert it first, for example with `iconv -t utf8`."
        ) from error
    except (json.JSONDecodeError, lzma.LZMAError, EOFError) as error:
        raise SourceError(
            f"sources.path: {path} is damaged behind line {number} ({error}); write it again."
        ) from error

    if not records:
        raise SourceError(
            f"sources.path: {path} holds no record; write one JSON object with a `text` field "
            "per line."
        )


def _concatenated(
    name: str, root: Path, source: Source, skip: tuple[str, ...] = (), strict: bool = True
) -> Iterator[Document]:
    """One document of all files under ``root``, each behind a header line with its path."""
    parts: list[str] = []
    size = 0
    for path in sorted(p for s in source.suffixes for p in root.rglob(f"*{s}") if p.is_file()):
        relative = path.relative_to(root)
        hidden = any(part in skip or part.startswith(".") for part in relative.parts)
        if hidden or "__pycache__" in relative.parts or path.stat().st_size > 400_000:
            continue
        try:
            text = _decode(path, path.read_bytes())
        except SourceError:
            if strict:
                raise
            continue  # not the user's to convert: Python's own files and installed packages

        # A header line a file, as in a listing of many files.
        part = f"# ==== {name}/{relative.as_posix()} ====\n{text.rstrip()}\n\n"
        if size + len(part) > source.max_chars:
            break
        parts.append(part)
        size += len(part)

    if not parts:
        raise SourceError(
            f"sources.path: {root} holds no {' or '.join(source.suffixes)} file; "
            "set sources.suffixes or name another folder."
        )
    yield Document(name, source.domain or "code", "".join(parts))


def _package(name: str, source: Source) -> Iterator[Document]:
    spec = importlib.util.find_spec(name)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    if not locations:
        if source.missing_ok:
            return
        raise SourceError(
            f"sources.names: no package {name!r} is installed; install it or set missing_ok."
        )
    yield from _concatenated(name, Path(locations[0]), source, strict=False)
