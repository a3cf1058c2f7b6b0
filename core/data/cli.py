"""``megacontext data``: prepare shards, train a tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Datasets: tokenizer, shards, recall text.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps ``prepare`` a subcommand while it is the only one."""


@app.command()
def prepare(
    config: Annotated[Path, typer.Option(help="YAML file, e.g. configs/data/corpora.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the shards.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that tokenize.")] = 1,
    recall: Annotated[
        bool, typer.Option("--recall", help="Write synthetic recall text too, as domain `recall`.")
    ] = False,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Base model folder whose likeliest next tokens are kept per token."),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Turn text into Arrow shards of token slices; an interrupted run continues.

    Recall text is facts planted in the prepared text and asked for later; --set recall.share=0.3
    and the other keys of `recall` say how much and of which kind. A teacher cache saves
    `train lora --set teacher=cache` the forward pass of the original model.

    Example: megacontext data prepare --config configs/data/corpora.yaml --jobs 8 --recall
    """
    from rich.console import Console

    from megacontext.core.config.settings import load
    from megacontext.core.data.prepare import DataConfig
    from megacontext.core.data.prepare import prepare as run
    from megacontext.core.data.progress import stages
    from megacontext.core.data.recall_shards import RecallText
    from megacontext.core.data.teacher_cache import Teacher

    settings = load(DataConfig, config, set_ or [])
    if recall and settings.recall is None:
        settings = replace(settings, recall=RecallText())
    if teacher is not None:
        kept = settings.teacher or Teacher(str(teacher))
        settings = replace(settings, teacher=replace(kept, model=str(teacher)))
    target = out or Path(settings.out)
    with stages(Console(stderr=True)) as message:
        manifest = run(settings, target, jobs=jobs, progress=message)
    if json_:
        print(json.dumps(manifest, sort_keys=True))
    else:
        shards = manifest["shards"]
        count = len(shards) if isinstance(shards, list) else 0
        print(f"{target}: {count} shards, {manifest['tokens']:,} tokens")
