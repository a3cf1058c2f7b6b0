"""``megacontext chat``: a conversation over long texts in the terminal, or through a pipe."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from megacontext.core.cli.progress import silence_libraries
from megacontext.traces.errors import MegaContextError, SourceError

if TYPE_CHECKING:
    from megacontext.core import Answer, Engine

app = typer.Typer(add_completion=False)

HELP = """\
/focus        what the last question expanded and collapsed
/file PATH    read a text file into the history
/help         this list
/quit         end, as the end of the input does"""

_SLICE = 2048  # characters between two updates of the progress bar
_EXCERPT = 72  # characters


@app.command()
def chat(
    model: str | None = typer.Option(
        None, help="'demo' (bundled, the default), a model folder, a GGUF file or a hub id."
    ),
    file: list[Path] = typer.Option([], help="Text file to read first; may repeat."),
    w_max: int | None = typer.Option(None, help="Entries of the working context."),
    lens: str | None = typer.Option(None, help="Who scores the frontier, e.g. bm25."),
    max_new_tokens: int = typer.Option(128, min=1, help="Longest answer, in tokens."),
    trace: Path | None = typer.Option(None, help="Trace to record to, for mc-tui replay."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace the trace at --trace."),
    tree: Path | None = typer.Option(None, help="Keep the history in this folder."),
    config: Path | None = typer.Option(None, help="YAML config whose settings are used."),
    set_: list[str] = typer.Option([], "--set", help="Override: key.path=value; may repeat."),
    as_json: bool = typer.Option(False, "--json", help="Print each answer as one JSON line."),
) -> None:
    """Talk with a model about texts that are longer than its window.

    Each line is a question; the answer comes as it is decoded. /focus shows what the engine
    expanded for it. Reads questions from a pipe, too.

    Example: megacontext chat --model demo --file book.txt
    """
    from megacontext.core import Engine, load_config
    from megacontext.core.config import parse_config
    from megacontext.traces.target import check_copy

    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    silence_libraries()
    settings = load_config(config, set_) if config else parse_config("", set_, "--set")
    for path in file:  # before a model is loaded
        _check(path)
    if trace is not None:
        check_copy(trace, overwrite=overwrite)

    with Engine.load(
        model, w_max=w_max, lens=lens, trace=trace, config=settings, tree=tree
    ) as engine:
        for note in engine.notes:
            console.print(f"note: {note}")
        for path in file:
            read_file(engine, path, console)
        if sys.stdin.isatty():
            console.print(f"{engine.n_tokens:,} tokens are read. Ask; /help lists the commands.")
        _Conversation(engine, console, max_new_tokens, as_json).run()


class _Conversation:
    """Lines in, answers out."""

    def __init__(self, engine: Engine, console: Console, limit: int, as_json: bool) -> None:
        self._engine = engine
        self._console = console
        self._limit = limit
        self._as_json = as_json
        self._answer: Answer | None = None

    def run(self) -> None:
        """Until the end of the input or ``/quit``."""
        for line in _lines():
            command, _, rest = line.partition(" ")
            match command:
                case "":
                    pass
                case "/quit" | "/exit":
                    return
                case "/help":
                    print(HELP, flush=True)
                case "/focus":
                    print(describe_focus(self._engine, self._answer), flush=True)
                case "/file":
                    self._read(rest.strip())
                case _ if command.startswith("/"):
                    self._console.print(f"error: {command} is no command; /help lists them.")
                case _:
                    self._ask(line)

    def _ask(self, question: str) -> None:
        show = (lambda text: None) if self._as_json else _show
        answer = self._engine.ask(question, max_new_tokens=self._limit, on_text=show)
        self._answer = answer
        if self._as_json:
            print(json.dumps({"question": question} | asdict(answer)), flush=True)
        else:
            print(flush=True)

    def _read(self, name: str) -> None:
        """A file that cannot be read does not end the conversation."""
        try:
            _check(Path(name))
            read_file(self._engine, Path(name), self._console)
        except MegaContextError as error:
            self._console.print(f"error: {error}")


def describe_focus(engine: Engine, answer: Answer | None) -> str:
    """What the last question changed in the working context, in lines of text."""
    if answer is None:
        return "Nothing was asked yet."
    context, actions = engine.working_context, answer.refocus.actions
    expanded, forced = len(answer.refocus.expanded), sum(a.forced for a in actions)
    lines = [
        f"{expanded} expanded, {len(actions) - expanded} collapsed ({forced} forced); "
        f"{context.cost:,} of {context.w_max:,} entries show {engine.n_tokens:,} tokens"
    ]
    for action in sorted(actions, key=lambda a: (a.kind != "expand", -a.score)):
        sign = "+" if action.kind == "expand" else "-"
        excerpt = " ".join(engine.text(action.start, action.stop).split())[:_EXCERPT]
        span = f"{action.start:,}-{action.stop:,}"
        lines.append(f"{sign} tokens {span:<17} score {action.score:+.2f}  {excerpt}")
    return "\n".join(lines)


def read_file(engine: Engine, path: Path, console: Console) -> None:
    """Append a UTF-8 text file with a progress bar on the terminal.

    Raises:
        SourceError: it cannot be read.
    """
    from rich.progress import Progress

    from megacontext.core.config.sources import TextSource
    from megacontext.core.sources.plain import text_texts

    size, done = path.stat().st_size, 0
    with Progress(
        console=console, transient=True, disable=not console.is_terminal
    ) as progress_bars:
        bar = progress_bars.add_task(f"reading {path.name}", total=size)
        for text in text_texts(TextSource(path=str(path))):
            for part in _slices(text):
                engine.append(part)
                done += len(part.encode())
                progress_bars.update(bar, completed=done)
    if not done:
        raise SourceError(f"{path} holds no text; give it some.")


def _slices(text: str) -> Iterator[str]:
    """The text cut at line ends, at least ``_SLICE`` characters each but the last."""
    part: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        part.append(line)
        size += len(line)
        if size >= _SLICE:
            yield "".join(part)
            part, size = [], 0
    if part:
        yield "".join(part)


def _check(path: Path) -> None:
    if not path.is_file():
        raise SourceError(f"--file {str(path)!r} is no file; name a text file.")


def _lines() -> Iterator[str]:
    """Lines of standard input without white space around them; a prompt on a terminal."""
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors != "replace":
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt) if prompt else sys.stdin.readline()
        except EOFError:
            return
        if not line and not prompt:
            return
        yield line.strip()


def _show(text: str) -> None:
    print(text, end="", flush=True)
