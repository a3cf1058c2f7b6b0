"""``megacontext eval ruler``: benchmarks on a shared runner, thin over ``core.benchmarks``."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from megacontext.core.cli import evaluate
from megacontext.core.cli.progress import silence_libraries
from megacontext.core.config import Config, load_config, parse_config
from megacontext.traces.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from megacontext.core.benchmarks.tasks import BenchTask

__all__ = ["facts", "needles", "ruler", "worlds"]

MODEL = typer.Option(None, "--model", help="Model: what model.path takes; default: the config's.")
CONFIG = typer.Option(None, "--config", help="YAML config of a run; default: all defaults.")
SET = typer.Option([], "--set", help="Override: key.path=value; may repeat.")
W_MAX = typer.Option(None, "--w-max", min=4, help="Budget in entries; default: the config's.")
LENGTHS = typer.Option("4k,32k", help="Tokens of text, joined by commas: 4k, 128k, 1M.")
SET_LENGTHS = typer.Option(
    "0k,4k,32k", "--lengths", help="As 4k, 128k, 1M, joined by commas; 0k: the facts alone."
)
HAYSTACK = typer.Option(
    [], help="Text file or folder to hide them in; may repeat; default: Python's own texts."
)
TASKS = typer.Option(None, help="Names of tasks joined by commas; default: all.")
SAMPLES = typer.Option(
    None, min=1, help="Questions of each task and length; default: 20, or all that are loaded."
)
SHARED = typer.Option(
    1, "--shared-haystack", min=1, help="Questions about one text; 1: a text for each."
)
CONTENDERS = typer.Option(None, help="Names joined by commas; default: all that can take part.")
SEED = typer.Option(None, min=0, help="Replaces the config's seed; tasks follow from it, too.")
OUT = typer.Option(None, "--out", help="Folder for results and tables; default: runs/BENCHMARK.")
WORKERS = typer.Option(
    0, min=0, help="Processes; 0: one a core for the bundled model, one for any other."
)
EMBEDDER = typer.Option("", help="Folder of the embedding model of the contender dense.")
SAVE = typer.Option(None, "--save-tasks", help="Write the tasks to this file and stop.")
LOAD = typer.Option([], "--load-tasks", help="Take tasks from this file; may repeat.")
JSON = typer.Option(False, "--json", help="Print one JSON object.")
_SAMPLES = 20
_LENGTH = re.compile(r"(\d+)([kKmM]?)")


@dataclass(frozen=True)
class Plan:
    """The options that all benchmarks share."""

    benchmark: str
    model: str | None
    config: Path | None
    set_: list[str]
    w_max: int | None
    lengths: str
    tasks: str | None
    samples: int | None
    shared: int
    contenders: str | None
    seed: int | None
    out: Path | None
    workers: int
    embedder: str
    save: Path | None
    load: list[Path]
    as_json: bool

    @property
    def number(self) -> int:
        """Questions of each task and length to make."""
        return self.samples or _SAMPLES

    def loaded(self) -> Config:
        """The config that the options come to."""
        extra = list(self.set_)
        extra += [] if self.model is None else [f"model.path={json.dumps(self.model)}"]
        extra += [] if self.w_max is None else [f"w_max={self.w_max}"]
        extra += [] if self.seed is None else [f"seed={self.seed}"]
        if self.config is None:
            return parse_config("{}", extra, "the command line")
        return load_config(self.config, extra)

    def names_loaded(self) -> list[str]:
        """The tasks to take of what was loaded; empty: all."""
        return [] if self.tasks is None else [name.strip() for name in self.tasks.split(",")]

    def names(self, known: Sequence[str]) -> list[str]:
        """The tasks asked for."""
        if self.tasks is None:
            return list(known)
        names = [name.strip() for name in self.tasks.split(",")]
        for name in names:
            if name not in known:
                raise ConfigError(f"--tasks: {name!r} is unknown; use some of {', '.join(known)}.")
        return list(dict.fromkeys(names))


def lengths_of(text: str, least: int = 1) -> list[int]:
    """Tokens: ``4k`` is 4,096 and ``1M`` 1,048,576."""
    units = {"": 1, "k": 1 << 10, "m": 1 << 20}
    results = []
    for part in text.split(","):
        match = _LENGTH.fullmatch(part.strip())
        if match is None or int(match[1]) < least:
            raise ConfigError(f"--lengths: {part.strip()!r} is no length; write 4k, 128k or 1M.")
        results.append(int(match[1]) * units[match[2].lower()])
    return sorted(set(results))


Generate = Callable[["Tokenizer", Callable[[int, int], None]], "list[BenchTask]"]


def ruler(
    model: str | None = MODEL,
    config: Path | None = CONFIG,
    set_: list[str] = SET,
    w_max: int | None = W_MAX,
    lengths: str = LENGTHS,
    tasks: str | None = TASKS,
    samples: int | None = SAMPLES,
    shared: int = SHARED,
    contenders: str | None = CONTENDERS,
    seed: int | None = SEED,
    out: Path | None = OUT,
    workers: int = WORKERS,
    embedder: str = EMBEDDER,
    save: Path | None = SAVE,
    load: list[Path] = LOAD,
    as_json: bool = JSON,
) -> None:
    """RULER: the official generator, prompts and scores, beside controls at the same budget.

    Results are kept as they are found; the same command goes on where it was stopped.

    Example: megacontext eval ruler --model smollm2 --lengths 4k,32k --samples 10 --w-max 2048
    """
    plan = Plan(
        "ruler",
        model,
        config,
        set_,
        w_max,
        lengths,
        tasks,
        samples,
        shared,
        contenders,
        seed,
        out,
        workers,
        embedder,
        save,
        load,
        as_json,
    )
    silence_libraries()
    from megacontext.core.benchmarks.ruler import RULER_TASKS, generate_ruler

    names, chosen = plan.names(list(RULER_TASKS)), lengths_of(lengths)

    def generate(tokenizer: Tokenizer, progress: Callable[[int, int], None]) -> list[BenchTask]:
        number = plan.loaded().seed
        return generate_ruler(
            tokenizer, names, chosen, plan.number, shared=shared, seed=number, progress=progress
        )

    run_plan(plan, "RULER", {"tasks": names, "lengths": chosen}, generate)


def _packaged_set(name: str, title: str, example: str) -> Callable[..., None]:
    """A command of a set of our own; all have the same options."""

    def command(
        model: str | None = MODEL,
        config: Path | None = CONFIG,
        set_: list[str] = SET,
        w_max: int | None = W_MAX,
        lengths: str = SET_LENGTHS,
        haystack: list[Path] = HAYSTACK,
        tasks: str | None = TASKS,
        samples: int | None = SAMPLES,
        shared: int = SHARED,
        contenders: str | None = CONTENDERS,
        seed: int | None = SEED,
        out: Path | None = OUT,
        workers: int = WORKERS,
        embedder: str = EMBEDDER,
        save: Path | None = SAVE,
        load: list[Path] = LOAD,
        as_json: bool = JSON,
    ) -> None:
        plan = Plan(
            name,
            model,
            config,
            set_,
            w_max,
            lengths,
            tasks,
            samples,
            shared,
            contenders,
            seed,
            out,
            workers,
            embedder,
            save,
            load,
            as_json,
        )
        silence_libraries()
        from megacontext.core.benchmarks.planting import Haystack, make_set
        from megacontext.core.benchmarks.sets import SETS

        factories, default = SETS[name]
        names = plan.names(list(factories)) if tasks else list(default)
        chosen, number = lengths_of(lengths, 0), plan.loaded().seed

        def generate(tokenizer: Tokenizer, progress: Callable[[int, int], None]) -> list[BenchTask]:
            return make_set(
                name,
                {task: factories[task] for task in names},
                tokenizer,
                Haystack(haystack),
                chosen,
                plan.number,
                shared=shared,
                seed=number,
                progress=progress,
            )

        texts = [str(path.resolve()) for path in haystack]
        label: dict[str, Any] = {"tasks": names, "lengths": chosen, "haystack": texts}
        run_plan(plan, title.partition(":")[0], label, generate)

    command.__name__ = name
    command.__doc__ = f"{title}\n\nExample: {example}"
    return command


worlds = _packaged_set(
    "worlds",
    "Worlds: people walk, take and give things, hidden in prose (bAbI's tasks 1 to 5, made anew).",
    "megacontext eval worlds --model smollm2 --lengths 0k,4k,32k --w-max 2048",
)
needles = _packaged_set(
    "needles",
    "Needles: facts that share no word with their question (after NoLiMa, made anew).",
    "megacontext eval needles --model smollm2 --lengths 0k,4k,32k --w-max 2048",
)
facts = _packaged_set(
    "facts",
    "Facts: same-worded facts told apart by their key, in wording no calibration has seen.",
    "megacontext eval facts --model smollm2 --lengths 0k,4k,32k --w-max 2048",
)


def run_plan(plan: Plan, title: str, header: dict[str, Any], generate: Generate) -> None:
    """Generate or load tasks, ask them, write and show what came out."""
    loaded = plan.loaded()
    console = Console(stderr=True, quiet=plan.as_json)
    out = plan.out or Path("runs") / plan.benchmark
    if plan.save is not None:
        _save(plan, loaded, plan.save, header, generate, console)
        print(f"{plan.save}: tasks written.")
        return
    paths = plan.load or [_generated(plan, loaded, out, header, generate, console)]
    _ask(plan, loaded, title, paths, out, console)


def _save(
    plan: Plan,
    loaded: Config,
    path: Path,
    header: dict[str, Any],
    generate: Generate,
    console: Console,
) -> None:
    from megacontext.core.benchmarks.tasks import write_bench
    from megacontext.core.evaluation.tasks.synthesize import tokenizer_of

    with evaluate.bar("tasks", console) as progress:
        tasks = generate(tokenizer_of(loaded), lambda done, total: progress(done, total))
    about = {"benchmark": plan.benchmark, "model": loaded.model.path, "seed": loaded.seed}
    sizes = {"samples": plan.number, "shared_haystack": plan.shared}
    write_bench(path, tasks, about | sizes | header)


def _generated(
    plan: Plan,
    loaded: Config,
    out: Path,
    header: dict[str, Any],
    generate: Generate,
    console: Console,
) -> Path:
    """The file of these tasks, made where an earlier run has not left it."""
    from megacontext.core.evaluation.tasks.synthesize import tokenizer_of

    arguments = [tokenizer_of(loaded).to_str(), plan.number, plan.shared, loaded.seed, header]
    name = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:12]
    path = out / f"tasks-{name}.jsonl.xz"
    if not path.is_file():
        _save(plan, loaded, path, header, generate, console)
    return path


def _ask(
    plan: Plan, loaded: Config, title: str, paths: list[Path], out: Path, console: Console
) -> None:
    from megacontext.core.benchmarks.run import contenders_for, run_bench
    from megacontext.core.benchmarks.summary import figures_of, page, summarize
    from megacontext.core.evaluation.results.provenance import about_now
    from megacontext.core.evaluation.results.tables import write_parquet
    from megacontext.core.evaluation.runner.job_pool import fingerprint, workers_for

    start = time.monotonic()
    names, notes = contenders_for(plan.contenders, plan.embedder)
    workers = workers_for(loaded, plan.workers)
    with evaluate.bar(plan.benchmark, console) as progress:
        results = run_bench(
            loaded,
            paths,
            names,
            out / "results.jsonl",
            names=plan.names_loaded(),
            samples=plan.samples or 0,
            workers=workers,
            embedder=plan.embedder,
            progress=lambda done, total, now: progress(done, total, now or plan.benchmark),
        )
    cells = summarize(results, loaded.seed)
    write_parquet(out / f"{plan.benchmark}.parquet", [asdict(result) for result in results])
    heading = f"{title}: {loaded.model.path}, W_max {loaded.w_max:,}"
    image, reason = _picture(out / f"{plan.benchmark}.png", heading, cells)
    notes += reason
    command = ["megacontext", *sys.argv[1:]]
    seconds = time.monotonic() - start
    about = about_now(plan.benchmark, command, fingerprint(loaded), workers, seconds, notes)
    about.write(out)
    prepared = (
        f"```\n{about.command}\n```\n\nCommit {about.commit or 'unknown'}; {about.machine}; "
        f"{about.date}; {workers} processes, {seconds / 60:.1f} minutes in the last stretch."
        + "".join(f" Note: {note}" for note in notes)
    )
    text = page(heading, prepared, cells, image)
    try:
        (out / f"{plan.benchmark}.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{out} cannot be written ({error.strerror}).") from error
    for note in notes:
        console.print(f"note: {note}", markup=False)
    if plan.as_json:
        whole = {"model": loaded.model.path, "w_max": loaded.w_max, "results": figures_of(cells)}
        print(json.dumps(whole, allow_nan=False))
    else:
        _show(cells)
        print(f"{out / f'{plan.benchmark}.md'}: {len(results)} answers.")


def _picture(path: Path, heading: str, cells: Sequence[Any]) -> tuple[str, list[str]]:
    """The picture's name, or a note that says why there is none."""
    from megacontext.core.benchmarks.picture import draw

    try:
        draw(path, heading, cells)
    except ConfigError as error:
        return "", [f"no picture: {error}"]
    return path.name, []


def _show(cells: Sequence[Any]) -> None:
    from megacontext.core.benchmarks.summary import tables_of

    for title, rows in tables_of(cells):
        print(title)
        evaluate.show({}, rows, False)
        print()
