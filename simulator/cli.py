"""``megacontext sim``: run, fuzz, replay, oracle. Commands are thin; the work is elsewhere."""

from __future__ import annotations

import json
import pdb
import traceback
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from megacontext.core.allocators import ALLOCATORS
from megacontext.simulator.config import POLICIES, WorldConfig
from megacontext.simulator.failures import (
    Failure,
    attempt,
    load_failure,
    run_operations,
    shrink_failure,
)
from megacontext.simulator.fuzz import FuzzReport, fuzz
from megacontext.simulator.lenses import LENSES
from megacontext.simulator.metrics import Meter
from megacontext.simulator.oracle.evaluate import Scored, evaluate_all
from megacontext.simulator.registry import pick
from megacontext.simulator.streams import STREAMS
from megacontext.simulator.world import World
from megacontext.traces.errors import ConfigError
from megacontext.traces.target import check_copy

__all__ = ["app"]

app = typer.Typer(
    help="A deterministic world around the engine: run it, fuzz it, replay a failure, compare.",
    no_args_is_help=True,
)

_JSON = typer.Option(False, "--json", help="Print one JSON object and nothing else.")
_FAILURES = Path("runs/failures")


def _whole(text: str) -> int:
    """A seed from the command line."""
    if not str(text).isdecimal():
        raise ConfigError(f"seed is {text!r}; use a whole number from 0 to 2**63 - 1.")
    return int(text)


_SEED = typer.Option(0, parser=_whole, metavar="N", help="Of everything that is drawn.")


@app.command()
def run(
    stream: str = typer.Option("needle", help=f"One of {', '.join(STREAMS)}."),
    lens: str = typer.Option("noisy", help=f"One of {', '.join(LENSES)}."),
    allocator: str = typer.Option("greedy", help=f"One of {', '.join(ALLOCATORS)}."),
    seed: int = _SEED,
    out: Path | None = typer.Option(None, help="Record the run as this trace (*.arrow)."),
    blocks: int = typer.Option(256, min=1, help="Blocks to append, one refocus each."),
    block_size: int = typer.Option(32, help="K, tokens in a block."),
    levels: int = typer.Option(3, help="Levels of gists."),
    w_max: int = typer.Option(1024, help="The budget in entries."),
    recording: str | None = typer.Option(None, help="The trace that --stream recorded replays."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace the trace at --out."),
    as_json: bool = _JSON,
) -> None:
    """One world, every invariant checked; --out makes a trace that mc-tui shows.

    Example: megacontext sim run --stream needle --lens noisy --seed 7 --out t.arrow
    """
    config = WorldConfig(
        seed=seed,
        stream=stream,
        lens=lens,
        allocator=allocator,
        block_size=block_size,
        max_levels=levels,
        w_max=w_max,
        recording=recording,
        features={"resume": 0},
    )

    if out is not None:
        check_copy(out, overwrite=overwrite)
    meter = Meter()
    world = World(config, out=out, watch=meter)
    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as bar:
        for _ in bar.track(range(blocks), description="refocus"):
            world.do(["append", block_size])
            world.do(["refocus"])

    digest = world.finish()
    tokens, asked = world.shadow.n_tokens, blocks * block_size
    results = {"hash": digest, "steps": world.steps, "rounds": world.rounds}
    results |= {"tokens": tokens, "clipped_tokens": asked - tokens}
    results |= {"trace": None if out is None else str(out)}
    results |= {name: _number(value) for name, value in vars(meter.result()).items()}
    results |= {"sometimes": dict(sorted(world.sometimes.items()))}

    if as_json:
        print(json.dumps(results))
        return
    table = Table("what", "value", title=f"{stream} · {lens} · {allocator} · seed {seed}")
    for name, value in results.items():
        if name != "sometimes":
            table.add_row(name, _text(value))
    Console().print(table)

    if tokens < asked:
        Console(stderr=True).print(
            f"The history ends at {tokens} of {asked} tokens: more does not fit {levels} levels "
            f"and w_max {w_max}; raise --levels or --w-max."
        )


@app.command(name="fuzz")
def fuzz_command(
    minutes: float = typer.Option(5.0, min=0.0, help="How long."),
    seed: int = _SEED,
    worlds: int | None = typer.Option(None, min=1, help="Stop after this many worlds."),
    save: Path = typer.Option(_FAILURES, help="Folder for failing operation lists."),
    as_json: bool = _JSON,
) -> None:
    """Draw worlds until the time is up; a failure is saved, shrunk and printed as a test.

    Example: megacontext sim fuzz --minutes 2 --seed 0 --json
    """
    console = Console(stderr=True, quiet=as_json)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("fuzz", total=minutes * 60)

        def progress(report: FuzzReport) -> None:
            rate = f"{report.worlds} worlds, {report.crashes} lives, "
            rate += f"{report.steps_per_s:,.0f} steps/s"
            bar.update(task, completed=report.seconds, description=rate)

        report = fuzz(seed, seconds=minutes * 60, worlds=worlds, progress=progress)
    results = report.to_json()
    saved = []
    for failure in report.failures:
        path = failure.save(save)  # whole at first: shrinking may be cut short
        console.print(f"{path}: {failure.kind}, shrinking it", markup=False)
        short = _shrunk(failure, console)
        path.write_text(short.to_json())
        saved.append({"file": str(path), "kind": short.kind, "message": short.message})
        message = f"{short.trace}\n{short.kind}: {short.message}\n\n{short.snippet()}"
        console.print(message, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(results | {"saved": saved}))
    else:
        _show_fuzz(report, saved)
    if report.failures:
        raise typer.Exit(1)


def _shrunk(failure: Failure, console: Console) -> Failure:
    """The shortest list that fails so; minutes for a list of hundreds of operations."""
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("shrink", total=None)

        def progress(tries: int, operations: int) -> None:
            bar.update(task, description=f"{operations} operations after {tries:,} tries")

        return shrink_failure(failure, progress=progress)


def _show_fuzz(report: FuzzReport, saved: list[dict[str, str]]) -> None:
    console = Console()
    table = Table("what", "value", title="sim fuzz")
    for name in ("worlds", "steps", "rounds", "operations", "crashes"):
        table.add_row(name, f"{getattr(report, name):,}")
    table.add_row("steps/s", f"{report.steps_per_s:,.0f}")
    table.add_row("crashes/s", f"{report.crashes_per_s:,.0f}")
    table.add_row("failures", str(len(report.failures)))
    table.add_row("never happened", ", ".join(report.never) or "-")
    console.print(table)
    for failure in saved:
        console.print(f"repeat it: megacontext sim replay {failure['file']}", markup=False)


@app.command()
def replay(
    file: Path = typer.Argument(help="An operation list saved by sim fuzz."),
    shrink: bool = typer.Option(False, help="Shrink it further and save it again."),
    debugger: bool = typer.Option(False, "--pdb", help="Stop in the debugger where it fails."),
    as_json: bool = _JSON,
) -> None:
    """Repeat a saved failure; exit code 1 where it still fails.

    Example: megacontext sim replay tests/regressions/swallowed-arm.json
    """
    saved = load_failure(file)

    if debugger:
        _debug(saved)
    again = attempt(saved.config, saved.operations)
    if again is not None and shrink:
        again = _shrunk(again, Console(stderr=True, quiet=as_json))
        file.write_text(again.to_json())

    results = {
        "fails": again is not None,
        "kind": again.kind if again else None,
        "message": again.message if again else None,
        "same": again is not None and again.kind == saved.kind,
        "operations": len(again.operations if again else saved.operations),
    }

    if as_json:
        print(json.dumps(results))
    elif again is None:
        print(f"{file}: {len(saved.operations)} operations, every invariant holds")
    else:
        print(f"{again.trace}\n{again.kind}: {again.message}\n\n{again.snippet()}")
    if again is not None:
        raise typer.Exit(1)


def _debug(saved: Failure) -> None:
    """Run the operations and stop where they fail, with the world as it is there."""
    try:
        run_operations(saved.config, saved.operations)
    except Exception as error:
        traceback.print_exception(error)
        pdb.post_mortem(error.__traceback__)


@app.command()
def oracle(
    stream: list[str] = typer.Option([], help="Streams; may repeat. All of them by default."),
    lens: list[str] = typer.Option(["oracle", "noisy"], help="Lenses; may repeat."),
    allocator: list[str] = typer.Option(list(POLICIES), help="Allocators; may repeat."),
    seed: int = _SEED,
    blocks: int = typer.Option(192, min=1, help="Blocks, one refocus each."),
    block_size: int = typer.Option(16, help="K."),
    levels: int = typer.Option(3, help="Levels of gists."),
    w_max: int = typer.Option(256, help="The budget in entries."),
    n_diff: int = typer.Option(4, help="Voluntary actions a round."),
    tau: float = typer.Option(0.2, help="Both thresholds."),
    cooldown: int = typer.Option(2, help="cooldown_steps."),
    rounds: int = typer.Option(3, help="Rounds a refocus."),
    as_json: bool = _JSON,
) -> None:
    """Every policy against the oracle bounds and the controls: regret, hits, time to focus.

    Example: megacontext sim oracle --stream needle --lens noisy --allocator greedy
    """
    streams = stream or [name for name in STREAMS if name != "recorded"]

    # Refuse unknown names before the first run starts.
    for name in streams:
        pick(STREAMS, name, "stream")
    for name in lens:
        pick(LENSES, name, "lens")
    for name in allocator:
        pick(ALLOCATORS, name, "allocator")
    if not lens or not allocator:
        raise ConfigError("lens and allocator need a value each; name one.")

    base = WorldConfig(
        seed=seed,
        block_size=block_size,
        max_levels=levels,
        w_max=w_max,
        n_diff=n_diff,
        tau_expand=tau,
        tau_collapse=tau,
        cooldown_steps=cooldown,
        rounds=rounds,
        features={"resume": 0},
    )

    # Results come one by one, so the bar moves with each policy.
    total = len(streams) * len(allocator) * len(lens)
    results: list[Scored] = []
    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("policies", total=total)
        for scored in evaluate_all(base, blocks, streams, lens, allocator):
            results.append(scored)
            bar.update(task, advance=1)

    if as_json:
        print(json.dumps({"runs": [_plain(scored.to_json()) for scored in results]}))
    else:
        Console(width=120).print(_oracle_table(results))


def _oracle_table(results: list[Scored]) -> Table:
    table = Table(title="regret against the oracle bounds")

    for name in ("stream", "lens", "allocator"):
        table.add_column(name)
    for name in ("regret", "LOD0 hits", "to focus", "reached", "swap", "thrash", "used"):
        table.add_column(name, justify="right")

    for scored in results:
        m = scored.metrics
        table.add_row(
            scored.stream,
            scored.lens,
            scored.allocator,
            f"{scored.regret_low:.2f} … {scored.regret_high:.2f}",
            f"{m.hit_rate:.2f}",
            "-" if m.time_to_focus != m.time_to_focus else f"{m.time_to_focus:.0f}",
            f"{m.reached:.2f}",
            f"{m.swap_rate:.2f}",
            f"{m.thrash:.2f}",
            f"{m.utilization:.2f}",
        )
    return table


def _plain(row: dict[str, object]) -> dict[str, object]:
    return {name: _number(value) for name, value in row.items()}


def _number(value: object) -> object:
    """JSON has no NaN; a time to focus that never came is null."""
    if isinstance(value, float):
        return None if value != value else round(value, 6)
    return value


def _text(value: object) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else str(value)
