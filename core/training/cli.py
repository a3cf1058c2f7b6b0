"""``megacontext train``: thin commands around the trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from megacontext.core.training import gistnet_cli, lora_cli

__all__ = ["app"]

app = typer.Typer(
    help="Train a base model, GistNet, its keys, LensNet, or a LoRA adapter.",
    no_args_is_help=True,
)
gistnet_cli.register(app)
lora_cli.register(app)


@app.command()
def base(
    config: Annotated[Path, typer.Option(help="YAML file, e.g. configs/train/base.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and metrics.")],
    export: Annotated[Path | None, typer.Option(help="Hugging Face folder to write.")] = None,
    init: Annotated[Path | None, typer.Option(help="Start from this exported model.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the latest checkpoint.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the final figures as JSON.")] = False,
) -> None:
    """Train a base model from scratch on prepared text.

    Example: megacontext train base --config configs/train/base-smoke.yaml --out runs/base
    """
    from megacontext.core.training.base.task import BaseConfig, train_base
    from megacontext.core.training.loop.config import load
    from megacontext.core.training.report import show

    settings = load(BaseConfig, config, set_ or [])
    show(train_base(settings, out, device=device, resume=resume, init=init, export=export), json_)


@app.command()
def average(
    model: Annotated[list[Path], typer.Option(help="Exported model, two or more times.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    weight: Annotated[
        list[float] | None, typer.Option(help="Weight of each model in turn; default: equal.")
    ] = None,
) -> None:
    """Average the weights of base models, or of LensNets, that had the same start.

    Example: megacontext train average --model runs/a/export --model runs/b/export --out runs/ab
    """
    from megacontext.core.training.base.weight_average import average as average_models

    average_models(model, weight or [], out)
    print(f"{out}: the average of {len(model)} models.")


@app.command()
def judge(
    model: Annotated[Path, typer.Option(help="Exported base model folder.")],
    heldout: Annotated[Path, typer.Option(help="Prepared held-out shards.")],
    rows: Annotated[int, typer.Option(min=1, help="Text windows per domain.")] = 16,
    length: Annotated[int, typer.Option(min=2, help="Tokens per text window.")] = 1024,
    samples: Annotated[int, typer.Option(min=1, help="Recall samples per cell.")] = 48,
    recall_length: Annotated[
        list[int] | None, typer.Option(help="Recall window, repeatable.")
    ] = None,
    kind: Annotated[str, typer.Option(help="Scene kind of the recall text, or mixed.")] = "mixed",
    gistnet: Annotated[
        Path | None, typer.Option(help="GistNet whose gists stand in coarse windows.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Print a base model's held-out NLL by domain and its in-window recall, as JSON.

    Example: megacontext train judge --model core/pretrained/demo/base --heldout .local/heldout
    """
    from megacontext.core.training.base.evaluate import HeldoutConfig
    from megacontext.core.training.base.task import judge_base

    lengths = tuple(recall_length or (1024, 2048, 4096))
    config = HeldoutConfig(rows, length, samples, lengths, kind=kind, batch_tokens=8192)
    print(json.dumps(judge_base(model, heldout, config, device, gistnet), sort_keys=True))
