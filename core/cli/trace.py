"""``megacontext trace``: look at, check, repair and convert a trace. Thin over ``traces``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from megacontext.traces.errors import ConfigError

app = typer.Typer(
    help="Work on a trace: info, verify, recover, compact, export, metrics.", no_args_is_help=True
)

_TRACE = typer.Argument(..., metavar="TRACE", help="A trace (*.arrow), finished or not.")
_JSON = typer.Option(False, "--json", help="Print one JSON object.")
_OUT = typer.Option(None, "--out", help="Write here instead of in place.")
_OVERWRITE = typer.Option(False, "--overwrite", help="Replace the trace at --out.")


def _show(title: str, metrics: dict[str, Any], as_json: bool) -> None:
    """The figures as a table, or as one JSON object."""
    if as_json:
        print(json.dumps(metrics, allow_nan=False))
        return
    table = Table(box=None, show_header=False, title=title, title_justify="left")
    for name, value in metrics.items():
        if value is not None and not isinstance(value, (list, dict)):
            table.add_row(name.replace("_", " "), escape(_format_cell(_text(value))))
    Console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:,.4g}"
    return str(value)


def _check_out(trace: Path, out: Path | None, overwrite: bool) -> None:
    """Refuse to write over a trace that is not the one rewritten."""
    from megacontext.traces.target import check_copy

    if out is not None and not (out.exists() and trace.exists() and out.samefile(trace)):
        check_copy(out, overwrite=overwrite)


@app.command()
def info(trace: Path = _TRACE, as_json: bool = _JSON) -> None:
    """What a trace is: run, model, size, state, markers.

    Example: megacontext trace info runs/demo.arrow
    """
    from megacontext.traces.reader import TraceReader

    with TraceReader.open(trace) as reader:
        overview, meta = reader.overview(), reader.meta
        rows = reader.num_rows
        growing = reader.being_written()
        state = "finished" if reader.finished else "growing" if growing else "cut"
        seconds = float(overview.t_ns[-1] - overview.t_ns[0]) / 1e9 if rows else 0.0
        metrics: dict[str, Any] = {
            "trace": str(trace),
            "state": state,
            "version": meta.version,
            "bytes": trace.stat().st_size,
            "rows": rows,
            "refocuses": len(set(overview.step.tolist())),
            "history_tokens": int(overview.history_tokens[-1]) if rows else 0,
            "seconds": seconds,
            "scores": meta.scores,
            "scores_dropped": int(overview.scores_dropped[-1]) if rows else 0,
            "tail_bytes": reader.tail_bytes,
            "damaged_ranges": len(reader.gaps),
            "damaged_rows": int(overview.damaged.sum()),
            "block_size": meta.block_size,
            "w_max": meta.w_max,
            "levels": meta.levels,
            "seed": meta.seed,
            "model": meta.model,
            "weights": meta.extra.get("mc.weights"),
            "tokenizer": meta.tokenizer,
            "created": meta.created,
            "git": meta.git,
            "markers": [{"row": row, "text": text} for row, text in overview.markers.items()],
            "config": meta.config,
        }
    if not as_json:
        del metrics["config"]
    _show("Trace", metrics, as_json)
    if not as_json:
        for marker in metrics["markers"][:20]:
            print(f"  row {marker['row']:>8,}  {_format_cell(marker['text'])}")


def _format_cell(text: str) -> str:
    """Text from a trace may hold terminal escapes."""
    return "".join(c if c.isprintable() else "?" for c in text)


@app.command()
def verify(
    trace: Path = _TRACE,
    against: Path | None = typer.Option(None, help="Another trace that must say the same."),
    as_json: bool = _JSON,
) -> None:
    """Check CRCs, states and budgets, and run the recorded allocator again.

    Exit code 1 with the first difference when something does not agree.

    Example: megacontext trace verify runs/a.arrow --against runs/b.arrow
    """
    from megacontext.core.verify import verify as verify_trace

    console = Console(stderr=True, quiet=as_json)
    columns = ("verify", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = as_json or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("verify", total=None)
        report = verify_trace(
            trace, against, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        verdict = "ok" if report.ok else "FAILED"
        print(f"{verdict}: {report.rows:,} rows, {report.rerun:,} decided again", end="")
        print(f" by {report.allocator}." if report.allocator else ".")
        for problem in report.problems:
            print(f"  problem: {problem}")
        for note in report.notes:
            print(f"  note: {note}")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def recover(
    trace: Path = _TRACE,
    out: Path | None = _OUT,
    overwrite: bool = _OVERWRITE,
    as_json: bool = _JSON,
) -> None:
    """Rewrite a cut or damaged trace with a footer, keeping every whole batch.

    Example: megacontext trace recover runs/crashed.arrow
    """
    from megacontext.traces.recover import recover as recover_trace

    _check_out(trace, out, overwrite)
    report = recover_trace(trace, out)
    if as_json:
        print(json.dumps(asdict(report)))
        return
    lost = f", {report.tail_bytes:,} bytes of a cut batch dropped" if report.tail_bytes else ""
    print(f"{out or trace}: {report.rows:,} rows{lost}.")
    for sentence in report.lost:
        print(f"  lost: {sentence}")
    for start, stop in report.gaps:
        print(f"  lost: bytes {start} to {stop}.")


@app.command()
def compact(
    trace: Path = _TRACE,
    out: Path | None = _OUT,
    scores: str | None = typer.Option(None, help="f16, u8, topk or none; default: as they are."),
    top_k: int = typer.Option(256, min=1, help="Scores a row keeps under topk."),
    overwrite: bool = _OVERWRITE,
    as_json: bool = _JSON,
) -> None:
    """Rewrite a finished trace smaller.

    Example: megacontext trace compact runs/long.arrow --scores u8 --out runs/small.arrow
    """
    from megacontext.traces.compact import compact as compact_trace

    _check_out(trace, out, overwrite)
    report = compact_trace(trace, out, scores=scores, top_k=top_k)
    if as_json:
        print(json.dumps(asdict(report)))
        return
    before, after = report.bytes_before / 1e6, report.bytes_after / 1e6
    print(f"{out or trace}: {report.rows:,} rows, {before:.2f} MB before, {after:.2f} MB after.")


@app.command()
def export(
    trace: Path = _TRACE,
    out: Path = typer.Option(..., "--out", help="File to write; its suffix names the format."),
    format: str | None = typer.Option(None, help="parquet, jsonl, svg or html."),
    scores: bool = typer.Option(True, help="Include the scores column."),
    start: int = typer.Option(0, min=0, help="First row."),
    stop: int | None = typer.Option(None, min=0, help="Row after the last."),
    as_json: bool = _JSON,
) -> None:
    """Write Parquet, JSON lines, or a timeline picture (SVG, HTML).

    Example: megacontext trace export runs/demo.arrow --out demo.html
    """
    from megacontext.traces.export import export as export_trace
    from megacontext.traces.reader import TraceReader
    from megacontext.traces.target import is_trace

    if is_trace(out):
        raise ConfigError(f"--out {out} is a trace, which an export never replaces; name another.")
    with TraceReader.open(trace) as reader:
        rows = export_trace(reader, out, format, scores=scores, start=start, stop=stop)
    if as_json:
        print(json.dumps({"out": str(out), "rows": rows, "bytes": out.stat().st_size}))
        return
    print(f"{out}: {rows:,} rows, {out.stat().st_size / 1e6:.2f} MB.")


@app.command()
def metrics(trace: Path = _TRACE, as_json: bool = _JSON) -> None:
    """Swap rate, residency, detail, time to focus, thrash, NLL and latency.

    Example: megacontext trace metrics runs/demo.arrow --json
    """
    from megacontext.traces.metrics import metrics_of
    from megacontext.traces.reader import TraceReader

    with TraceReader.open(trace) as reader:
        metrics = metrics_of(reader)
    _show("Metrics", metrics, as_json)
    if not as_json:
        for asked in metrics["time_to_focus"]:
            elapsed = asked["refocuses"]
            verdict = "not reached" if elapsed is None else f"after {elapsed} refocuses"
            span = f"{asked['start']:,}-{asked['stop']:,}"
            print(f"  question at step {asked['step']:,}: tokens {span} raw {verdict}")
