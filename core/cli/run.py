"""``megacontext run``: one session, headless."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from megacontext.core.cli.progress import silence_libraries, token_progress
from megacontext.traces.errors import ConfigError
from megacontext.traces.target import check_target, dated

if TYPE_CHECKING:
    from megacontext.core.config import Config
    from megacontext.core.runtime.run import RunResult

app = typer.Typer(add_completion=False)


@app.command()
def run(
    config: Path = typer.Option(..., help="YAML config, or a trace to repeat its run."),
    set_: list[str] = typer.Option([], "--set", help="Override: key.path=value; may repeat."),
    out: Path | None = typer.Option(
        None, help="Trace to write; default runs/<config>-<date>.arrow."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace the trace at --out."),
    tree: Path | None = typer.Option(None, help="Keep the tree in this folder (a disk tree)."),
    resume: bool = typer.Option(False, "--resume", help="Go on with the run recorded at --out."),
    control: bool = typer.Option(True, help="Serve a control socket beside the trace."),
    stdin: bool = typer.Option(True, help="Read the turns of a prompt source from stdin."),
    telemetry: str | None = typer.Option(
        None, help="Sinks joined by commas: tensorboard, wandb, otel, prometheus."
    ),
    fail_on_alarm: bool = typer.Option(
        False, "--fail-on-alarm", help="Exit code 1 if an alarm was raised."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the summary as one JSON object."),
) -> None:
    """Run a session and record it.

    Reads the config's source to its end, decodes what it asks for, and prints a summary with the
    answers, the decoded text and the alarms. Every decision is a row of the trace, which
    `mc-tui replay` opens and which is whole up to the last batch whatever happens to the process.

    Exit status: 0 done; 1 the budget was broken, or an alarm was raised under --fail-on-alarm; 2
    an argument, the config or a file is refused; 130 stopped, --resume goes on.

    Example: megacontext run --config configs/demo.yaml --set w_max=2048 --out runs/a.arrow
    """
    from megacontext.traces.packaged import find_config

    config = find_config(config)
    loaded = _load(config, set_, tree, telemetry)
    target = _target(config, out, overwrite=overwrite, resume=resume)

    # Load, run and record.
    console = Console(stderr=True, quiet=as_json, markup=False, soft_wrap=True)
    result = _run(loaded, target, console, resume, overwrite, control, stdin, as_json)

    # Report.
    from megacontext.core.config.sources import PromptSource
    from megacontext.core.runtime.summary import print_summary, summarize

    summary = summarize(target, result.outcome, result.seconds)
    if as_json:
        print(json.dumps(asdict(summary)))
    else:
        print_summary(summary, Console(), decoded=not isinstance(loaded.source, PromptSource))
    if summary.violations or (fail_on_alarm and summary.alarms):
        raise typer.Exit(1)


def _load(config: Path, set_: list[str], tree: Path | None, telemetry: str | None) -> Config:
    """The config with what the options change."""
    from megacontext.core.config import load_config

    if telemetry is not None:
        set_ = [*set_, f"telemetry.sinks=[{telemetry}]"]
    if tree is not None:  # before the check: a key that only a tree on disk reads is legal then
        set_ = [*set_, "tree.storage=disk", f"tree.path={json.dumps(str(tree))}"]
    return load_config(config, set_)


def _target(config: Path, out: Path | None, *, overwrite: bool, resume: bool) -> Path:
    """Where the trace goes.

    Raises:
        ConfigError: ``--resume`` without ``--out``, or ``--out`` is what ``--config`` names.
            Also if a file is there that may not be replaced.
    """
    if resume and out is None:
        raise ConfigError("--resume needs --out with the trace of the run that goes on.")
    stem = config.stem if config.suffix != ".arrow" else config.stem + "-again"
    target = out or dated(stem)
    if not resume and target.exists() and target.samefile(config):
        raise ConfigError(
            f"--out {target} is the trace that --config names, which the run would write over; "
            "choose another --out."
        )
    check_target(target, overwrite=overwrite, resume=resume)
    return target


def _run(
    config: Config,
    target: Path,
    console: Console,
    resume: bool,
    overwrite: bool,
    control: bool,
    stdin: bool,
    as_json: bool,
) -> RunResult:
    """Run the session under a progress bar; an interrupt ends it with exit code 130."""
    silence_libraries()
    from megacontext.core.runtime.run import run as run_session

    def print_notes(messages: list[str]) -> None:
        console.print("".join(f"note: {note}\n" for note in messages), end="")

    # With --json only the object goes to stdout: replies of a conversation go to stderr.
    replies_to = redirect_stdout(sys.stderr) if as_json else nullcontext()
    try:
        with replies_to, token_progress(config.source, console) as progress:
            return run_session(
                config,
                target,
                resume=resume,
                overwrite=overwrite,
                control=control,
                read_stdin=stdin,
                progress=progress,
                on_notes=print_notes,
            )
    except KeyboardInterrupt:
        if target.exists():
            console.print(
                f"{target} is whole up to here; the same command with --out {target} --resume"
                " goes on."
            )
        raise typer.Exit(130) from None
