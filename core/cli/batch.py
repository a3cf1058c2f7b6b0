"""``megacontext batch``: many runs, one table."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megacontext.core.cli.evaluate import bar, tables

app = typer.Typer(add_completion=False)

_SHOWN = (
    "history_tokens",
    "refocuses",
    "swap_rate",
    "residency",
    "utilization",
    "thrash",
    "focused",
    "questions",
    "nll",
)


@app.command()
def batch(
    config: Path = typer.Option(..., help="YAML with configs, seeds, overrides, streams, out."),
    workers: int = typer.Option(0, min=0, help="Processes; 0: as many as cores."),
    engine: str = typer.Option("local", help="local, or ray (extra)."),
    out: Path | None = typer.Option(None, help="Folder of traces and table; default: the file's."),
    overwrite: bool = typer.Option(
        False, "--overwrite", help="Replace traces of other configs that have a job's name."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Run many sessions in worker processes; a killed batch goes on where it was.

    Example: megacontext batch --config configs/batch/lenses.yaml --workers 2
    """
    from megacontext.core.batch.plan import load_plan
    from megacontext.core.batch.run import run_batch

    plan = load_plan(config, out)
    console = Console(stderr=True, quiet=as_json)
    with bar("jobs", console) as progress:
        report = run_batch(
            plan, engine, workers or os.cpu_count() or 1, progress, overwrite=overwrite
        )
    if as_json:
        metrics = {
            "out": str(plan.out),
            "parquet": str(report.parquet),
            "jobs": len(plan.jobs),
            "resumed": report.resumed,
            "failed": report.failed,
            "rows": report.rows,
        }
        print(json.dumps(metrics, allow_nan=False))
    else:
        _print(report.rows)
        print(f"{report.parquet}: {len(plan.jobs)} jobs, {report.resumed} finished before.")
        for name, error in report.failed.items():
            print(f"  failed: {name}: {error}")
    if report.failed:
        raise typer.Exit(1)


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("job", "status", *(name.replace("_", " ") for name in _SHOWN), box=None)
    for row in rows:
        cells = [_cell(row.get(name)) for name in _SHOWN]
        table.add_row(escape(row["job"]), row["status"], *cells)
    tables().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
