"""Config of the sources of text. Each has a ``kind``; ``core/sources`` holds their code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megacontext.core.config.fields import option

__all__ = [
    "CorpusSource",
    "DecodeSegment",
    "FolderSource",
    "IngestSegment",
    "MarkerSegment",
    "PlainSource",
    "PlantSegment",
    "PromptSource",
    "PythonSource",
    "QuestionSegment",
    "ScriptSource",
    "Segment",
    "SourceConfig",
    "StdinSource",
    "TextSegment",
    "TextSource",
]


@dataclass(frozen=True)
class TextSource:
    """One UTF-8 text file, then decoding."""

    kind: Literal["text"] = "text"
    path: str = option("", "file to read")
    max_tokens: int = option(0, "stop reading after so many tokens; 0: all", low=0)
    decode_tokens: int = option(0, "tokens to decode after the text", low=0)


@dataclass(frozen=True)
class FolderSource:
    """The UTF-8 files of a folder in path order, each announced by a header line."""

    kind: Literal["folder"] = "folder"
    path: str = option("", "folder to read")
    pattern: str = option("**/*.py", "glob of the files")
    max_tokens: int = option(0, "stop reading after so many tokens; 0: all", low=0)
    decode_tokens: int = option(0, "tokens to decode after the text", low=0)


@dataclass(frozen=True)
class PythonSource:
    """The sources of an installed package, or of the standard library, as one document."""

    kind: Literal["python"] = "python"
    package: str = option("stdlib", "'stdlib', 'pydoc' (its documentation) or a package's name")
    max_tokens: int = option(65_536, "stop reading after so many tokens; 0: all", low=0)
    decode_tokens: int = option(64, "tokens to decode after the text", low=0)


@dataclass(frozen=True)
class CorpusSource:
    """One document of a JSON-lines file (``.jsonl`` or ``.jsonl.xz``) with a ``text`` field."""

    kind: Literal["corpus"] = "corpus"
    path: str = option("", "file to read")
    document: int = option(0, "line of the document, from 0", low=0)
    max_tokens: int = option(0, "stop reading after so many tokens; 0: all", low=0)
    decode_tokens: int = option(0, "tokens to decode after the text", low=0)


@dataclass(frozen=True)
class StdinSource:
    """UTF-8 text from standard input, read as it comes, then decoding."""

    kind: Literal["stdin"] = "stdin"
    max_tokens: int = option(0, "stop reading after so many tokens; 0: all", low=0)
    decode_tokens: int = option(64, "tokens to decode after the text", low=0)


@dataclass(frozen=True)
class PromptSource:
    """A conversation: each line typed is a turn, answered by decoding."""

    kind: Literal["prompt"] = "prompt"
    reply_tokens: int = option(64, "longest reply", low=1)
    stop: str = option("\n", "text that ends a reply")
    preload: str = option("", "text file read before the first turn")


@dataclass(frozen=True)
class IngestSegment:
    """The next tokens of the script's text."""

    kind: Literal["ingest"] = "ingest"
    tokens: int = option(1024, "how many", low=1)


@dataclass(frozen=True)
class TextSegment:
    """A literal text."""

    kind: Literal["text"] = "text"
    text: str = option("", "the text")


@dataclass(frozen=True)
class PlantSegment:
    """A fact whose place later questions name; writes a marker 'needle planted @start-stop'."""

    kind: Literal["plant"] = "plant"
    name: str = option("", "what a question's 'about' refers to")
    text: str = option("", "the text")


@dataclass(frozen=True)
class QuestionSegment:
    """A question: a marker, a refocus with the limits of questions, a decoded answer."""

    kind: Literal["question"] = "question"
    text: str = option("", "the text, up to where the answer starts")
    about: str = option("", "name of the planted fact")
    answer: str = option("", "what a right answer starts with")
    tokens: int = option(12, "longest answer", low=1)
    stop: str = option("\n", "text that ends the answer")


@dataclass(frozen=True)
class DecodeSegment:
    """Free decoding."""

    kind: Literal["decode"] = "decode"
    tokens: int = option(64, "how many", low=1)


@dataclass(frozen=True)
class MarkerSegment:
    """A mark in the trace."""

    kind: Literal["marker"] = "marker"
    text: str = option("", "the mark")


Segment = (
    IngestSegment | TextSegment | PlantSegment | QuestionSegment | DecodeSegment | MarkerSegment
)
PlainSource = TextSource | FolderSource | PythonSource | CorpusSource


@dataclass(frozen=True)
class ScriptSource:
    """Segments of ingest, planted facts, questions and decoding over one text."""

    kind: Literal["script"] = "script"
    text: PlainSource = field(default_factory=lambda: PythonSource(max_tokens=0, decode_tokens=0))
    segments: list[Segment] = option([], "what happens, in order")


SourceConfig = (
    TextSource
    | FolderSource
    | PythonSource
    | CorpusSource
    | StdinSource
    | PromptSource
    | ScriptSource
)
