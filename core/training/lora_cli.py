"""``megacontext train lora``; ``register`` adds it to an app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``lora``; torch is imported when it runs."""
    app.command()(lora)


def lora(
    config: Annotated[Path, typer.Option(help="YAML file, e.g. configs/train/lora.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and metrics.")],
    export: Annotated[Path | None, typer.Option(help="Adapter folder to write when best.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the latest checkpoint.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the final figures as JSON.")] = False,
) -> None:
    """Refresh a base model for mixed windows with a LoRA adapter, guarded on plain text.

    The exported folder has peft's format; a run merges it with --set model.adapter=FOLDER.

    Example: megacontext train lora --config configs/train/lora.yaml --out runs/lora
    """
    from megacontext.core.training.loop.config import load
    from megacontext.core.training.lora.task import LoraTraining, train_lora
    from megacontext.core.training.report import show

    settings = load(LoraTraining, config, set_ or [])
    show(train_lora(settings, out, device=device, resume=resume, export=export), json_)
