"""``megacontext eval suite|ablate|report|questions``: whole tables and the page made of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megacontext.core.cli import evaluate
from megacontext.core.cli.progress import loading_shown, silence_libraries
from megacontext.traces.errors import ConfigError, MegaContextError, StorageError

if TYPE_CHECKING:
    from megacontext.core.evaluation.results.metrics import Metric

__all__ = ["ablate", "questions", "report", "suite"]

_TEXT = typer.Option(
    [],
    "--text",
    help="Texts for NLL and haystacks, JSON lines; may repeat; default: the Python library.",
)
_JOBS = typer.Option(
    0, min=0, help="Processes; 0: one a core for the bundled model, one for any other."
)
_RESUME = typer.Option(False, "--resume", help="Keep what an interrupted evaluation finished.")
_JSON = typer.Option(False, "--json", help="Print one JSON object.")
_FOLDER = typer.Option(..., "--out", help="Folder for the tables and every single result.")


def suite(
    config: Path = typer.Option(..., help="YAML config of a run."),
    out: Path = _FOLDER,
    set_: list[str] = typer.Option([], "--set", help="Override: key.path=value; may repeat."),
    quick: bool = typer.Option(False, "--quick", help="A fixed subset for two CPU cores."),
    text: list[Path] = _TEXT,
    samples: int | None = typer.Option(None, min=1, help="Recall tasks of each length."),
    kinds: str | None = typer.Option(None, help="Kinds of recall tasks joined by commas."),
    pieces: int | None = typer.Option(None, min=1, help="Windows of each text for NLL."),
    contenders: str | None = typer.Option(
        None, help="Contenders of the recall section joined by commas; default: all."
    ),
    only: str | None = typer.Option(
        None, help="Sections joined by commas: recall, nll, answers, single, session, overhead."
    ),
    jobs: int = _JOBS,
    resume: bool = _RESUME,
    seed: int | None = typer.Option(None, min=0, help="Replaces the config's seed."),
    as_json: bool = _JSON,
) -> None:
    """All measures beside their targets: one Parquet file and one Markdown page.

    Example: megacontext eval suite --config configs/eval/bundle.yaml --quick --out runs/suite
    """
    start = time.monotonic()
    loaded = evaluate.load(config, set_, seed)
    console = Console(stderr=True, quiet=as_json)
    silence_libraries()
    from megacontext.core.evaluation.results.tables import write_parquet
    from megacontext.core.evaluation.runner.job_pool import fingerprint, workers_for
    from megacontext.core.evaluation.runner.suite import FULL, QUICK, run_suite
    from megacontext.core.evaluation.sessions.workspace import EvalWorkspace

    options = QUICK if quick else FULL
    options = replace(options, samples=samples or options.samples, pieces=pieces or options.pieces)
    if kinds is not None:
        options = replace(options, kinds=tuple(k.strip() for k in kinds.split(",")))
    if contenders is not None:
        options = replace(options, contenders=tuple(k.strip() for k in contenders.split(",")))
    if only is not None:
        options = replace(options, sections=tuple(k.strip() for k in only.split(",")))
    with loading_shown(console):
        kit = EvalWorkspace.load(loaded)
    for note in kit.notes:
        console.print(f"note: {note}")
    workers = workers_for(loaded, jobs)
    with evaluate.bar("suite", console) as progress:
        results = run_suite(
            kit.config,
            kit.base,
            _sources(text, options.parts),
            options,
            out / "suite.jsonl",
            workers=workers,
            resume=resume,
            progress=lambda done, total, label: progress(done, total, label or "suite"),
        )
    for name, records in results.singles.items():
        write_parquet(out / f"{name}.parquet", [asdict(single) for single in records])
    seconds = time.monotonic() - start
    weights = fingerprint(kit.config)
    _finish(out, "suite", results.rows, weights, workers, seconds, kit.notes, as_json)


def ablate(
    plan: Path = typer.Option(..., help="YAML file of tables and their variants."),
    out: Path = _FOLDER,
    set_: list[str] = typer.Option([], "--set", help="Of all variants: key.path=value."),
    quick: bool = typer.Option(False, "--quick", help="The plan's quick sizes."),
    table: list[str] = typer.Option([], "--table", help="Only this table; may repeat."),
    text: list[Path] = _TEXT,
    jobs: int = _JOBS,
    resume: bool = _RESUME,
    as_json: bool = _JSON,
) -> None:
    """Positions, KV modes, gists, levels, lenses, allocators: what each variant is worth.

    Example: megacontext eval ablate --plan configs/eval/ablations.yaml --out runs/ablations
    """
    start = time.monotonic()
    console = Console(stderr=True, quiet=as_json)
    silence_libraries()
    from megacontext.core.evaluation.runner.ablations import load_plan, run_ablations
    from megacontext.core.evaluation.runner.job_pool import fingerprint, workers_for

    loaded = replace(load_plan(plan), overrides=tuple(set_))
    loaded.config()
    for name in table:
        if name not in loaded.tables:
            raise ConfigError(f"--table: {name!r} is unknown; use some of {list(loaded.tables)}.")
    if table:
        loaded = replace(loaded, tables={name: loaded.tables[name] for name in table})
    sizes = loaded.quick if quick else loaded.full
    workers = workers_for(loaded.config(), jobs)
    with evaluate.bar("ablations", console) as progress:
        results, notes = run_ablations(
            loaded,
            sizes,
            _sources(text, sizes.documents),
            out / "ablations.jsonl",
            workers=workers,
            resume=resume,
            progress=lambda done, total, label: progress(done, total, label or "ablations"),
        )
    for note in notes:
        console.print(f"note: {note}")
    seconds = time.monotonic() - start
    weights = fingerprint(loaded.config())
    _finish(out, "ablations", results.rows, weights, workers, seconds, notes, as_json)


def report(
    folders: list[Path] = typer.Argument(..., help="--out folders of eval suite and eval ablate."),
    out: Path = typer.Option(..., "--out", help="Markdown file to write."),
    trace: list[Path] = typer.Option([], "--trace", help="Trace of a scripted run; may repeat."),
) -> None:
    """One page of evaluations: each table under its command, commit, machine and intervals.

    Example: megacontext eval report runs/suite runs/ablations --out docs/results.md
    """
    from megacontext.core.evaluation.results.report import page

    text = page(folders, trace)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"--out {out} cannot be written ({error.strerror}).") from error
    print(f"{out}: {len(folders)} evaluations, {len(trace)} traces.")


def questions(
    trace: Path = typer.Argument(..., metavar="TRACE", help="Trace of a scripted run."),
    need: int = typer.Option(0, min=0, help="Fail unless so many are in time and right."),
    within: int = typer.Option(2, min=0, help="Refocuses that count as in time."),
    as_json: bool = _JSON,
) -> None:
    """Whether a recorded run had the asked fact expanded in time, and answered right.

    Example: megacontext eval questions runs/demo.arrow --need 9
    """
    from megacontext.core.evaluation.results.report import questions_table
    from megacontext.core.evaluation.results.trace_questions import questions_of

    asked = questions_of(trace)
    in_time = [q.refocuses is not None and q.refocuses <= within for q in asked]
    good = sum(time and q.right for time, q in zip(in_time, asked, strict=True))
    metrics = {
        "questions": len(asked),
        "within": within,
        "in_time": sum(in_time),
        "right": sum(q.right for q in asked),
        "good": good,
        "asked": [asdict(q) for q in asked],
    }
    rows = questions_table(asked)
    evaluate.show(metrics, rows, as_json)
    if not as_json:
        print(f"{good} of {len(asked)} expanded within {within} refocuses and answered right.")
    if good < need:
        raise _TooFewError(
            f"{trace}: {good} of {len(asked)} questions were expanded within {within} refocuses "
            f"and answered right, --need is {need}."
        )


class _TooFewError(MegaContextError):
    """A check that failed."""

    exit_code = 1


def _sources(text: Sequence[Path], parts: int) -> Any:
    from megacontext.core.evaluation.runner.job_specs import Sources

    return Sources(tuple(str(path) for path in text), parts)


def _finish(
    out: Path,
    kind: str,
    rows: Sequence[Metric],
    weights: str,
    workers: int,
    seconds: float,
    notes: Sequence[str],
    as_json: bool,
) -> None:
    """Write the table and what it was measured with; show it."""
    from megacontext.core.evaluation.results.provenance import about_now
    from megacontext.core.evaluation.results.report import section, tables_of, targets_table
    from megacontext.core.evaluation.results.tables import write_parquet

    command = ["megacontext", *sys.argv[1:]]
    about = about_now(kind, command, weights, workers, seconds, notes)
    write_parquet(out / f"{kind}.parquet", [asdict(row) for row in rows])
    about.write(out)
    try:
        (out / f"{kind}.md").write_text(section(about, rows, "#"), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{out} cannot be written ({error.strerror}).") from error
    if as_json:
        evaluate.show({"rows": [asdict(row) for row in rows]}, [], True)
        return
    shown = [("Targets", targets_table(rows))] if kind == "suite" else []
    for title, rows_of_table in [*shown, *(tables_of(rows) if kind == "suite" else [])]:
        if not rows_of_table:
            continue
        table = Table(*rows_of_table[0], box=None, title=title, title_justify="left")
        for cells in rows_of_table:
            table.add_row(*(escape(cell) for cell in cells.values()))
        evaluate.tables().print(table)
    print(f"{out / f'{kind}.md'}: {len(rows)} figures in {seconds / 60:.1f} minutes.")
