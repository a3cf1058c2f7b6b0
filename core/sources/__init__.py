"""Where the history's text comes from: one generator of events per kind of source."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from megacontext.core.config.sources import (
    CorpusSource,
    FolderSource,
    IngestSegment,
    PlainSource,
    PromptSource,
    PythonSource,
    ScriptSource,
    SourceConfig,
    StdinSource,
    TextSource,
)
from megacontext.core.sources.events import (
    AwaitTurn,
    Decode,
    Event,
    Ingest,
    Mark,
    Plant,
    Question,
    Tokenizer,
)
from megacontext.core.sources.plain import (
    check_file,
    corpus_texts,
    folder_texts,
    ingest_events,
    stdin_texts,
    text_texts,
)
from megacontext.core.sources.python import python_texts
from megacontext.core.sources.script import script_events

__all__ = [
    "AwaitTurn",
    "Decode",
    "Event",
    "Ingest",
    "Mark",
    "Plant",
    "Question",
    "Tokenizer",
    "check_source",
    "open_source",
]


def check_source(source: SourceConfig) -> None:
    """Refuse a source whose text is not there, before a model is loaded for it.

    Nothing is read that can be read only once, as a pipe.

    Raises:
        SourceError: a file, folder or package is missing.
    """
    match source:
        case TextSource() | CorpusSource():
            check_file(source.path, "source.path")
        case FolderSource():
            next(folder_texts(source), None)
        case PythonSource():
            next(python_texts(source), None)
        case ScriptSource() if any(isinstance(s, IngestSegment) for s in source.segments):
            check_source(source.text)
        case PromptSource() if source.preload:
            check_file(source.preload, "source.preload")


def open_source(source: SourceConfig, tokenizer: Tokenizer) -> Iterator[Event]:
    """The events of a configured source.

    Raises:
        SourceError: on the first event that cannot be had: missing, empty or undecodable text.
    """
    match source:
        case ScriptSource():
            return script_events(source, lambda: _ingest(source.text, tokenizer), tokenizer)
        case PromptSource():
            return _prompt(source, tokenizer)
        case StdinSource():
            text = ingest_events(stdin_texts(), tokenizer, source.max_tokens, "Standard input")
            return chain(text, _decode(source.decode_tokens))
        case _:
            return chain(_ingest(source, tokenizer), _decode(source.decode_tokens))


def _ingest(source: PlainSource, tokenizer: Tokenizer) -> Iterator[Ingest]:
    match source:
        case TextSource():
            texts, label = text_texts(source), f"source.path {source.path!r}"
        case FolderSource():
            texts, label = folder_texts(source), f"source.path {source.path!r}"
        case CorpusSource():
            texts, label = corpus_texts(source), f"source.path {source.path!r}"
        case PythonSource():
            texts, label = python_texts(source), f"source.package {source.package!r}"
    return ingest_events(texts, tokenizer, source.max_tokens, label)


def _decode(tokens: int) -> Iterator[Event]:
    if tokens:
        yield Decode(tokens)


def _prompt(source: PromptSource, tokenizer: Tokenizer) -> Iterator[Event]:
    if source.preload:
        yield from _ingest(TextSource(path=source.preload), tokenizer)
    while True:
        yield AwaitTurn(source.reply_tokens, source.stop)
