"""``megacontext eval``: recall, NLL and the suite of both. Thin over ``core.evaluation``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from megacontext.core.cli.progress import loading_shown, silence_libraries
from megacontext.core.config import Config, load_config
from megacontext.traces.errors import ConfigError, SourceError

app = typer.Typer(
    help="Measure recall and NLL beside controls at the same budget.",
    no_args_is_help=True,
)

_CONFIG = typer.Option(..., help="YAML config of a run.")
_SET = typer.Option([], "--set", help="Override: key.path=value; may repeat.")
_SEED = typer.Option(None, min=0, help="Replaces the config's seed.")
_JSON = typer.Option(False, "--json", help="Print one JSON object.")
_OUT = typer.Option(None, "--out", help="Folder for every single result (Parquet) and the table.")
_MODE = typer.Option("fast", help="fast: build the window at the question; stream: read it all.")


@contextmanager
def bar(label: str, console: Console) -> Iterator[Callable[..., None]]:
    """A progress bar on a terminal; gives what moves it: (done, total, new description)."""
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal or console.quiet
    with Progress(*columns, console=console, disable=hidden) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total, now=label: progress.update(
            task, completed=done, total=total, description=now
        )


def tables() -> Console:
    """Where tables go: as wide as the terminal, and wide enough for them in a file."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def load(config: Path, set_: list[str], seed: int | None) -> Config:
    extra = [] if seed is None else [f"seed={seed}"]
    return load_config(config, [*set_, *extra])


def _stream(mode: str) -> bool:
    if mode not in ("fast", "stream"):
        raise ConfigError(f"--mode is {mode!r}; use fast or stream.")
    return mode == "stream"


def names_of(text: str | None, default: list[str]) -> list[str]:
    from megacontext.core.evaluation.contenders.registry import check_names

    return check_names(default if text is None else [n.strip() for n in text.split(",")])


def numbers_of(text: str, option: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} is {text!r}; write whole numbers joined by commas.") from None
    if min(numbers) < 1:
        raise ConfigError(f"{option} is {text!r}; the numbers must be at least 1.")
    return numbers


@app.command()
def recall(
    config: Path = _CONFIG,
    tasks: Path = typer.Option(
        ..., help="JSON lines with history, question, answer and optionally gold [start, end]."
    ),
    set_: list[str] = _SET,
    limit: int | None = typer.Option(None, min=1, help="Only the first so many tasks."),
    seed: int | None = _SEED,
    contenders: str | None = typer.Option(None, help="Names joined by commas."),
    mode: str = _MODE,
    template: str | None = typer.Option(
        None,
        help=r"Prompt with {question}; default: the model's chat template, or "
        r"'\nQuestion: {question}\nAnswer:'.",
    ),
    out: Path | None = _OUT,
    as_json: bool = _JSON,
) -> None:
    """Questions about facts far outside the window, beside controls at the same budget.

    Example: megacontext eval recall --tasks tasks.jsonl --config configs/demo.yaml --json
    """
    loaded = load(config, set_, seed)
    console = Console(stderr=True, quiet=as_json)
    silence_libraries()
    from megacontext.core.evaluation.results.tables import recall_table, write_results
    from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
    from megacontext.core.evaluation.tasks.recall import (
        RECALL_CONTENDERS,
        evaluate_recall,
        summarize_recall,
    )
    from megacontext.core.evaluation.tasks.recall_tasks import load_tasks

    stream, names = _stream(mode), names_of(contenders, RECALL_CONTENDERS)
    if template is not None and "{question}" not in template:
        raise ConfigError(f"--template is {template!r}; it must hold {{question}}.")
    loaded_tasks = load_tasks(tasks, limit)
    with loading_shown(console):
        kit = EvalWorkspace.load(loaded)
    for note in kit.notes:
        console.print(f"note: {note}")
    with bar("answers", console) as progress:
        results = evaluate_recall(
            kit,
            loaded_tasks,
            names,
            stream=stream,
            template=template,
            progress=progress,
        )
    summaries = summarize_recall(results)
    table = recall_table(summaries)
    if out is not None:
        write_results(out, "recall", results, table)
    show({name: summary.to_json() for name, summary in summaries.items()}, table, as_json)


@app.command("tasks")
def make(
    config: Path = _CONFIG,
    out: Path = typer.Option(..., "--out", help="File of JSON lines to write."),
    set_: list[str] = _SET,
    text: Path | None = typer.Option(
        None, help="Haystacks: JSON lines, or one plain text; default: the Python library."
    ),
    times: str = typer.Option("4,16,64", help="Lengths of history in multiples of w_max."),
    samples: int = typer.Option(20, min=1, help="Tasks of each length."),
    kinds: str | None = typer.Option(None, help="Kinds joined by commas; default: all but one."),
    facts: int = typer.Option(4, min=1, help="Same-worded facts in a scene."),
    per_history: int = typer.Option(8, min=1, help="Questions about one history."),
    seed: int | None = _SEED,
) -> None:
    """Make recall tasks: facts in wording that no training text has, planted in real text.

    Kinds: passkey, key_value, multi_key, multi_value, variables, pairs, conversation,
    definition, and, on demand, common_word.

    Example: megacontext eval tasks --config configs/demo.yaml --out tasks.jsonl --times 16
    """
    loaded = load(config, set_, seed)
    silence_libraries()
    from megacontext.core.evaluation.tasks.corpora import texts_from
    from megacontext.core.evaluation.tasks.recall_tasks import write_tasks
    from megacontext.core.evaluation.tasks.synthesize import TaskGenConfig, make_tasks, tokenizer_of

    options = TaskGenConfig(
        loaded.w_max,
        numbers_of(times, "--times"),
        samples,
        () if kinds is None else tuple(k.strip() for k in kinds.split(",")),
        facts,
        per_history,
        loaded.seed,
    )
    texts = texts_from([text] if text else [])
    recall_tasks = make_tasks(options, tokenizer_of(loaded), texts, loaded.block_size)
    try:
        write_tasks(out, recall_tasks)
    except OSError as error:
        raise SourceError(f"--out {out} cannot be written ({error.strerror}).") from error
    print(f"{out}: {len(recall_tasks)} tasks.")


@app.command()
def nll(
    config: Path = _CONFIG,
    text: Path = typer.Option(
        ..., help="JSON lines with a text (and doc, domain), or one plain text."
    ),
    set_: list[str] = _SET,
    w_max: str | None = typer.Option(None, help="Budgets joined by commas; default: the config's."),
    limit: int | None = typer.Option(None, min=1, help="Only the first so many texts."),
    pieces: int = typer.Option(4, min=1, help="Windows taken from each text."),
    horizon: int = typer.Option(64, min=1, help="Scored tokens at each window's end."),
    length: int = typer.Option(0, min=0, help="Tokens of a window; 0: the trained window."),
    seed: int | None = _SEED,
    contenders: str | None = typer.Option(None, help="Names joined by commas."),
    mode: str = _MODE,
    out: Path | None = _OUT,
    as_json: bool = _JSON,
) -> None:
    """NLL of the next tokens against the whole history in the window, beside controls.

    Example: megacontext eval nll --text texts.jsonl --config configs/demo.yaml --w-max 512,1024
    """
    loaded = load(config, set_, seed)
    console = Console(stderr=True, quiet=as_json)
    silence_libraries()
    from megacontext.core.evaluation.results.tables import nll_table, write_results
    from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
    from megacontext.core.evaluation.tasks.nll import (
        NLL_CONTENDERS,
        NLLOptions,
        evaluate_nll,
    )
    from megacontext.core.evaluation.tasks.nll_metrics import summarize_nll
    from megacontext.core.evaluation.tasks.recall_tasks import load_texts

    stream, names = _stream(mode), names_of(contenders, NLL_CONTENDERS)
    for name in ("full", "oracle"):
        if name in names:
            raise ConfigError(f"--contenders: {name!r} takes no part in nll; leave it out.")
    budgets = (loaded.w_max,) if w_max is None else numbers_of(w_max, "--w-max")
    texts = load_texts(text, limit)
    with loading_shown(console):
        kit = EvalWorkspace.load(loaded)
    for note in kit.notes:
        console.print(f"note: {note}")
    options = NLLOptions(budgets, horizon, pieces, length)
    with bar("windows", console) as progress:
        results = evaluate_nll(kit, texts, names, options, stream=stream, progress=progress)
    if not results:
        length = options.checked_length(kit.base.window)
        raise SourceError(f"No text has {length} tokens; give longer texts or a smaller --length.")
    summaries = summarize_nll(results, loaded.seed)
    table = nll_table(summaries)
    if out is not None:
        write_results(out, "nll", results, table)
    show({name: summary.to_json() for name, summary in summaries.items()}, table, as_json)


def show(record: Mapping[str, Any], table: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(record, allow_nan=False))
        return
    shown = Table(*table[0], box=None)
    for row in table:
        shown.add_row(*(escape(cell) for cell in row.values()))
    tables().print(shown)


def _register() -> None:
    # The larger evaluations have a file of their own, which uses what stands above.
    from megacontext.core.cli import evaluate_benchmarks, evaluate_suite

    for command in (
        evaluate_suite.suite,
        evaluate_suite.ablate,
        evaluate_suite.report,
        evaluate_suite.questions,
        evaluate_benchmarks.ruler,
        evaluate_benchmarks.worlds,
        evaluate_benchmarks.needles,
        evaluate_benchmarks.facts,
    ):
        app.command()(command)


_register()
