"""``megacontext train``: thin commands around the trainers; torch is imported when one runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app", "print_metrics"]

app = typer.Typer(
    help="Train a base model, GistNet, its keys, LensNet, a LoRA adapter, or all in turn.",
    no_args_is_help=True,
)

_Config = Annotated[Path, typer.Option(help="YAML file, see configs/train.")]
_Out = Annotated[Path, typer.Option(help="Folder for checkpoints and metrics.")]
_Export = Annotated[Path | None, typer.Option(help="Checkpoint folder to write when best.")]
_Resume = Annotated[bool, typer.Option(help="Continue from the latest checkpoint.")]
_Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
_Set = Annotated[list[str] | None, typer.Option("--set", help="key.path=value")]
_Json = Annotated[bool, typer.Option("--json", help="Print the final figures as JSON.")]


@app.command()
def base(
    config: _Config,
    out: _Out,
    export: Annotated[Path | None, typer.Option(help="Hugging Face folder to write.")] = None,
    init: Annotated[Path | None, typer.Option(help="Start from this exported model.")] = None,
    resume: _Resume = False,
    device: _Device = "auto",
    set_: _Set = None,
    json_: _Json = False,
) -> None:
    """Train a base model from scratch on prepared text.

    Example: megacontext train base --config configs/train/base-smoke.yaml --out runs/base
    """
    from megacontext.core.config.settings import load
    from megacontext.core.training.base.task import BaseConfig, train_base

    settings = load(BaseConfig, config, set_ or [])
    print_metrics(
        train_base(settings, out, device=device, resume=resume, init=init, export=export), json_
    )


@app.command()
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
    from megacontext.core.config.settings import load
    from megacontext.core.training.gistnet.task import GistNetTraining, train_gistnet

    settings = load(GistNetTraining, config, set_ or [])
    print_metrics(
        train_gistnet(settings, out, device=device, resume=resume, init=init, export=export), json_
    )


@app.command()
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
    from megacontext.core.config.settings import load
    from megacontext.core.training.index_keys.task import KeyTraining, train_keys

    settings = load(KeyTraining, config, set_ or [])
    print_metrics(train_keys(settings, out, device=device, resume=resume, export=export), json_)


@app.command()
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
    from megacontext.core.config.settings import load
    from megacontext.core.training.lensnet.task import LensNetTraining, train_lensnet

    settings = load(LensNetTraining, config, set_ or [])
    print_metrics(
        train_lensnet(settings, out, device=device, resume=resume, init=init, export=export), json_
    )


@app.command()
def lora(
    config: _Config,
    out: _Out,
    export: Annotated[Path | None, typer.Option(help="Adapter folder to write when best.")] = None,
    init: Annotated[Path | None, typer.Option(help="Start from this adapter.")] = None,
    resume: _Resume = False,
    device: _Device = "auto",
    set_: _Set = None,
    json_: _Json = False,
) -> None:
    """Refresh a base model for mixed windows with a LoRA adapter, guarded on plain text.

    The exported folder has peft's format; a run merges it with --set model.adapter=FOLDER.

    Example: megacontext train lora --config configs/train/lora.yaml --out runs/lora
    """
    from megacontext.core.config.settings import load
    from megacontext.core.training.lora.task import LoraTraining, train_lora

    settings = load(LoraTraining, config, set_ or [])
    print_metrics(
        train_lora(settings, out, device=device, resume=resume, init=init, export=export), json_
    )


@app.command()
def joint(
    config: _Config,
    out: _Out,
    export: Annotated[Path | None, typer.Option(help="Folder for what was kept.")] = None,
    resume: _Resume = False,
    device: _Device = "auto",
    set_: _Set = None,
    json_: _Json = False,
) -> None:
    """Train GistNet, LensNet and the base model's adapter in turn; roll back what does harm.

    Every phase is scored on the same held-out windows, and the drift guard bounds how far the base
    model may fall behind the original one on plain text and short tasks.

    Example: megacontext train joint --config configs/train/joint-smoke.yaml --out runs/joint
    """
    from megacontext.core.config.settings import load
    from megacontext.core.training.joint.config import JointTraining
    from megacontext.core.training.joint.task import train_joint

    settings = load(JointTraining, config, set_ or [])
    print_metrics(train_joint(settings, out, device=device, resume=resume, export=export), json_)


@app.command()
def ceiling(
    base: Annotated[str, typer.Option(help="Folder of the base model.")],
    heldout: Annotated[Path, typer.Option(help="Prepared held-out text.")],
    rows: Annotated[int, typer.Option(min=1, help="Blocks per domain.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps per vector.")] = 150,
    distance: Annotated[
        int, typer.Option("--apart", min=0, help="Raw tokens between the block and those scored.")
    ] = 0,
    device: _Device = "auto",
    json_: _Json = False,
) -> None:
    """What one optimized vector per block can hold: the ceiling of any GistNet.

    Example: megacontext train ceiling --base core/pretrained/demo/base --heldout .local/heldout
    """
    from megacontext.core.data.shards import open_shards
    from megacontext.core.data.token_streams import TokenStreams
    from megacontext.core.model.base import BaseModel
    from megacontext.core.training.common.frozen_base import FrozenBase
    from megacontext.core.training.gistnet.vector_upper_bound import one_vector_ceiling

    frozen = FrozenBase(BaseModel.load(base, device=device))
    streams = TokenStreams(open_shards(heldout))
    print_metrics(
        one_vector_ceiling(frozen, streams, rows=rows, steps=steps, distance=distance), json_
    )


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
    device: _Device = "auto",
) -> None:
    """Print a base model's held-out NLL by domain and its in-window recall, as JSON.

    Example: megacontext train judge --model core/pretrained/demo/base --heldout .local/heldout
    """
    from megacontext.core.training.base.evaluate import HeldoutConfig
    from megacontext.core.training.base.task import judge_base

    lengths = tuple(recall_length or (1024, 2048, 4096))
    config = HeldoutConfig(rows, length, samples, lengths, kind=kind, batch_tokens=8192)
    print(json.dumps(judge_base(model, heldout, config, device, gistnet), sort_keys=True))


def print_metrics(metrics: Mapping[str, float], as_json: bool) -> None:
    """The final metrics as one JSON object or a table; nothing in processes other than the main."""
    if not metrics:
        return
    if as_json:
        print(json.dumps(metrics, sort_keys=True))
        return
    for name, value in sorted(metrics.items()):
        print(f"{name:28s} {value:8.4f}")
