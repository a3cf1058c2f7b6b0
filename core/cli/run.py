"""``megacontext run``: one session, headless."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path

import typer
from rich.console import Console

from megacontext.core.cli.progress import quiet_libraries, token_progress
from megacontext.traces.errors import ConfigError
from megacontext.traces.target import check_target, dated

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
    as_json: bool = typer.Option(False, "--json", help="Print the summary as one JSON object."),
) -> None:
    """Run a session and record it.

    Example: megacontext run --config configs/demo.yaml --set w_max=2048 --out runs/a.arrow
    """
    from megacontext.core.config import load_config
    from megacontext.core.config.sources import PromptSource
    from megacontext.traces.packaged import find_config

    config = find_config(config)
    loaded = load_config(config, set_)
    if tree is not None:
        loaded = replace(loaded, tree=replace(loaded.tree, storage="disk", path=str(tree)))
    stem = config.stem if config.suffix != ".arrow" else config.stem + "-again"
    if resume and out is None:
        raise ConfigError("--resume needs --out with the trace of the run that goes on.")
    target = out or dated(stem)
    if not resume and target.exists() and target.samefile(config):
        raise ConfigError(
            f"--out {target} is the trace that --config names, which the run would write over; "
            "choose another --out."
        )
    check_target(target, overwrite=overwrite, resume=resume)
    console = Console(stderr=True, quiet=as_json, markup=False, soft_wrap=True)
    quiet_libraries()
    from megacontext.core.runtime.run import run as run_session
    from megacontext.core.runtime.summary import print_summary, summarize

    try:
        # With --json only the object goes to stdout: replies of a conversation go to stderr.
        answers_to = redirect_stdout(sys.stderr) if as_json else nullcontext()
        with answers_to, token_progress(loaded.source, console) as progress:
            result = run_session(
                loaded,
                target,
                resume=resume,
                overwrite=overwrite,
                control=control,
                read_stdin=stdin,
                progress=progress,
                on_notes=lambda notes: console.print(
                    "".join(f"note: {n}\n" for n in notes), end=""
                ),
            )
    except KeyboardInterrupt:
        if target.exists():
            console.print(
                f"{target} is whole up to here; the same command with --out {target} --resume"
                " goes on."
            )
        raise typer.Exit(130) from None
    summary = summarize(target, result.outcome, result.seconds)
    if as_json:
        print(json.dumps(asdict(summary)))
    else:
        print_summary(summary, Console(), decoded=not isinstance(loaded.source, PromptSource))
    if summary.violations:
        raise typer.Exit(1)
