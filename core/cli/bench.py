"""``megacontext bench``: measurements; docs/performance.md has figures with their commands."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from megacontext.traces.errors import ConfigError

app = typer.Typer(
    help="Measure: session, ingest, static, decode, refocus, tree, trace, tui, attached; "
    "make-trace makes a large trace.",
    no_args_is_help=True,
)

_JSON = typer.Option(False, "--json", help="Print one JSON object.")


@app.command()
def refocus(
    entries: list[int] = typer.Option([1024, 8192], help="Frontier nodes; may repeat."),
    seed: int = typer.Option(0, help="Of the scores."),
    as_json: bool = _JSON,
) -> None:
    """One refocus: allocator and working context, scores given.

    Example: megacontext bench refocus --entries 8192
    """
    from megacontext.core.bench.refocus import bench

    _show("refocus", bench(entries=tuple(entries), seed=seed), as_json)


@app.command()
def tree(
    tokens: int = typer.Option(1_000_000, min=1024, help="History of the memory measurement."),
    as_json: bool = _JSON,
) -> None:
    """Appends and memory of the tree, with null gists.

    Example: megacontext bench tree --tokens 10000000
    """
    from megacontext.core.bench.tree import bench

    _show("tree", bench(memory_tokens=tokens), as_json)


@app.command()
def trace(as_json: bool = _JSON) -> None:
    """What recording a row costs the decoding thread, and the size of rows.

    Example: megacontext bench trace
    """
    from megacontext.core.bench.trace import bench

    _show("trace", bench(), as_json)


@app.command()
def decode(as_json: bool = _JSON) -> None:
    """Time per token with and without refocusing; a 3B shape on a GPU, a tiny one on a CPU.

    Example: megacontext bench decode
    """
    from megacontext.core.bench.decode import bench

    _show("decode", bench(), as_json)


_SET = typer.Option([], "--set", help="Override: key.path=value; may repeat.")
_MODEL = typer.Option("demo", "--model", help="As in model.path.")


@app.command()
def session(
    model: str = _MODEL,
    w_max: int = typer.Option(1024, min=64, help="Budget in entries."),
    history: int = typer.Option(0, min=0, help="Tokens before the first; 0: 16 times --w-max."),
    cycles: int = typer.Option(16, min=1, help="Blocks to decode, each with a refocus."),
    set_: list[str] = _SET,
    as_json: bool = _JSON,
) -> None:
    """Time per token with refocuses over without, everything on, and where it goes.

    Example: megacontext bench session --model demo --w-max 1024
    """
    from megacontext.core.bench.session import bench

    metrics = bench(model, w_max, history, cycles, set_, _say(as_json))
    _show("session", metrics, as_json)


@app.command()
def static(
    model: str = _MODEL,
    w_max: int = typer.Option(1024, min=256, help="Entries of the static cache."),
    tokens: int = typer.Option(128, min=8, help="Tokens to decode."),
    compiled: bool = typer.Option(True, "--compile/--eager", help="torch.compile the step."),
    as_json: bool = _JSON,
) -> None:
    """Time per token of transformers with a static cache and torch.compile, to compare with.

    Example: megacontext bench static --model demo --eager
    """
    from megacontext.core.bench.static_cache import bench

    _show("static", bench(model, w_max, tokens, compiled, _say(as_json)), as_json)


@app.command()
def ingest(
    model: str = _MODEL,
    tokens: int = typer.Option(65_536, min=1024, help="Length of the text."),
    w_max: int = typer.Option(1024, min=64, help="Budget in entries."),
    chunk: int = typer.Option(512, min=0, help="ingest.chunk; 0: block by block."),
    nll: bool = typer.Option(True, help="ingest.nll: the model reads every chunk."),
    set_: list[str] = _SET,
    as_json: bool = _JSON,
) -> None:
    """Tokens/s of reading text into a session, everything on, and how that grows with it.

    Example: megacontext bench ingest --model demo --tokens 16384 --chunk 512
    """
    from megacontext.core.bench.ingest import bench

    metrics = bench(model, tokens, w_max, chunk, nll, set_, _say(as_json))
    _show("ingest", metrics, as_json)


@app.command()
def telemetry(
    model: str = _MODEL,
    w_max: int = typer.Option(1024, min=64, help="Budget in entries."),
    sink: list[str] = typer.Option([], "--sink", help="May repeat; none: all installed ones."),
    pairs: int = typer.Option(8, min=1, help="Slices of either session, in turn."),
    blocks: int = typer.Option(4, min=1, help="Blocks of a slice, each with a refocus."),
    set_: list[str] = _SET,
    as_json: bool = _JSON,
) -> None:
    """Decode speed with telemetry sinks over none, two sessions in turn.

    Example: megacontext bench telemetry --sink prometheus
    """
    from megacontext.core.bench.telemetry import bench

    metrics = bench(model, w_max, sink, pairs, blocks, set_, _say(as_json))
    _show("telemetry", metrics, as_json)


@app.command()
def tui(
    rows: int = typer.Option(31_250, min=1, help="Rows of the made trace."),
    entries: int = typer.Option(8192, min=64, help="Frontier nodes of the made trace."),
    trace: Path | None = typer.Option(None, help="Use this trace instead of making one."),
    load: int = typer.Option(0, min=0, help="Busy processes beside the inspector."),
    as_json: bool = _JSON,
) -> None:
    """Opening, seeking and painting a long trace in the inspector.

    Example: megacontext bench tui --load 4
    """
    result = _load("tui")(rows=rows, entries=entries, path=trace, busy=load)
    _show("tui", result, as_json)


@app.command()
def attached(
    pairs: int = typer.Option(5, min=1, help="Runs of either kind, in turn."),
    tokens: int = typer.Option(6_000, min=320, help="Tokens decoded in a run."),
    set_: list[str] = typer.Option([], "--set", help="Override: key.path=value; may repeat."),
    as_json: bool = _JSON,
) -> None:
    """Decode speed with an inspector attached against headless, and CPU seconds of both.

    Example: megacontext bench attached --set device=cpu
    """
    bench = _load("attached")
    _show("attached", bench(pairs=pairs, tokens=tokens, overrides=tuple(set_)), as_json)


@app.command("make-trace")
def make_trace(
    out: Path = typer.Option(..., help="Trace to write."),
    rows: int = typer.Option(31_250, min=0, help="Refocus rounds."),
    tokens: int = typer.Option(1_000_000, min=0, help="History."),
    entries: int = typer.Option(8192, min=64, help="Budget, W_max."),
    seed: int = typer.Option(0, help="Of everything made up."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace the trace at --out."),
) -> None:
    """Make a legal trace of any size, to try the inspector with.

    Example: megacontext bench make-trace --out /tmp/large.arrow --rows 2000 --tokens 64000
    """
    from megacontext.traces.synthetic import make_trace as make
    from megacontext.traces.target import check_copy

    check_copy(out, overwrite=overwrite)
    make(out, rows=rows, tokens=tokens, entries=entries, seed=seed)
    print(out)


def _say(as_json: bool) -> Callable[[str], None]:
    """Where a benchmark says what it does: standard error, or nowhere."""
    return Console(stderr=True, quiet=as_json).print


def _load(name: str) -> Callable[..., dict[str, Any]]:
    """The benchmark that another part of the distribution registered as ``name``."""
    results = {e.name: e for e in entry_points(group="megacontext.benches")}
    if name not in results:
        raise ConfigError(f"bench {name} is not registered; install again with `pip install -e .`.")
    bench: Callable[..., dict[str, Any]] = results[name].load()
    return bench


def _show(name: str, metrics: dict[str, Any], as_json: bool) -> None:
    metrics = {"bench": name, "machine": _machine()} | metrics
    if as_json:
        print(json.dumps(metrics))
        return
    table = Table("figure", "value", box=None)
    for key, value in _flat(metrics):
        table.add_row(key, f"{value:,.3f}" if isinstance(value, float) else str(value))
    Console().print(table)


def _flat(metrics: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(metrics, dict):
        for key, value in metrics.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(metrics, list) and metrics and isinstance(metrics[0], dict):
        for i, value in enumerate(metrics):
            yield from _flat(value, f"{path}[{i}]")
    else:
        yield path, metrics


def _machine() -> str:
    import os

    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
