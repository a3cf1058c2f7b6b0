"""Commands that train GistNet, its retriever and LensNet; ``register`` adds them to an app."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from megacontext.traces.errors import MegaContextError

__all__ = ["register"]

_Config = Annotated[Path, typer.Option(help="YAML file, see configs/train.")]
_Out = Annotated[Path, typer.Option(help="Folder for checkpoints and metrics.")]
_Export = Annotated[Path | None, typer.Option(help="Checkpoint folder to write when best.")]
_Resume = Annotated[bool, typer.Option(help="Continue from the latest checkpoint.")]
_Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
_Set = Annotated[list[str] | None, typer.Option("--set", help="key.path=value")]
_Json = Annotated[bool, typer.Option("--json", help="Print the final figures as JSON.")]


def register(app: typer.Typer) -> None:
    """Add ``gistnet``, ``keys``, ``lensnet`` and ``ceiling``; torch is imported when one runs."""
    app.command()(gistnet)
    app.command()(keys)
    app.command()(lensnet)
    app.command()(ceiling)


def gistnet(
    config: _Config,
    out: _Out,
    export: _Export = None,
    init: Annotated[Path | None, typer.Option(help="Start from this GistNet.")] = None,
    resume: _Resume = False,
    device: _Device = "auto",
    set_: _Set = None,
    json_: _Json = False,
) -> None:
    """Train the gist encoder on a frozen base model.

    Example: megacontext train gistnet --config configs/train/gistnet.yaml --out runs/gistnet
    """
    from megacontext.core.training.gistnet.task import GistNetTraining, train_gistnet
    from megacontext.core.training.loop.config import load
    from megacontext.core.training.report import show

    settings = load(GistNetTraining, config, set_ or [])
    show(
        train_gistnet(settings, out, device=device, resume=resume, init=init, export=export), json_
    )


def keys(
    config: _Config,
    out: _Out,
    export: _Export = None,
    resume: _Resume = False,
    device: _Device = "auto",
    set_: _Set = None,
    json_: _Json = False,
) -> None:
    """Train the index keys of a GistNet: gold blocks are found by them.

    Example: megacontext train keys --config configs/train/gistnet-keys.yaml --out runs/keys
    """
    from megacontext.core.training.index_keys.task import KeyTraining, train_keys
    from megacontext.core.training.loop.config import load
    from megacontext.core.training.report import show

    settings = load(KeyTraining, config, set_ or [])
    show(train_keys(settings, out, device=device, resume=resume, export=export), json_)


def lensnet(
    config: _Config,
    out: _Out,
    export: _Export = None,
    init: Annotated[Path | None, typer.Option(help="Start from this LensNet.")] = None,
    resume: _Resume = False,
    device: _Device = "auto",
    set_: _Set = None,
    json_: _Json = False,
) -> None:
    """Train a LensNet on a frozen base model and a trained GistNet.

    Example: megacontext train lensnet --config configs/train/lensnet.yaml --out runs/lensnet
    """
    from megacontext.core.training.lensnet.task import LensNetTraining, train_lensnet
    from megacontext.core.training.loop.config import load
    from megacontext.core.training.report import show

    settings = load(LensNetTraining, config, set_ or [])
    show(
        train_lensnet(settings, out, device=device, resume=resume, init=init, export=export), json_
    )


def ceiling(
    base: Annotated[str, typer.Option(help="Folder of the base model.")],
    heldout: Annotated[Path, typer.Option(help="Prepared held-out text.")],
    rows: Annotated[int, typer.Option(min=1, help="Blocks per domain.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps per vector.")] = 150,
    apart: Annotated[int, typer.Option(min=0, help="Raw tokens behind the block.")] = 0,
    device: _Device = "auto",
    json_: _Json = False,
) -> None:
    """What one optimized vector per block can hold: the ceiling of any GistNet.

    Example: megacontext train ceiling --base core/pretrained/demo/base --heldout .local/heldout
    """
    from megacontext.core.data.shards import open_shards
    from megacontext.core.model.base import BaseModel
    from megacontext.core.training.base.dataset import TokenStreams
    from megacontext.core.training.common.frozen_base import FrozenBase
    from megacontext.core.training.gistnet.vector_upper_bound import one_vector_ceiling
    from megacontext.core.training.report import show

    frozen = FrozenBase(BaseModel.load(base, device=device))
    streams = TokenStreams(open_shards(heldout))
    show(one_vector_ceiling(frozen, streams, rows=rows, steps=steps, apart=apart), json_)


def _main() -> None:
    app = typer.Typer(help="Train GistNet and LensNet.", no_args_is_help=True)
    register(app)
    try:
        app()
    except MegaContextError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    _main()
