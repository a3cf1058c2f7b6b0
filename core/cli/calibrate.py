"""``megacontext calibrate``: which heads of a model look things up. Thin over ``core.heads``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from megacontext.core.cli.progress import silence_libraries

app = typer.Typer(help="Find the heads of a model that look things up.")

_MODEL = typer.Option(..., "--model", help="Model folder, .gguf file, hub id, or short name.")
_TEXT = typer.Option([], "--text", help="Text file or folder to plant facts in; may repeat.")
_OUT = typer.Option(None, "--out", help="File to write; default: the cache, where runs look.")
_SEED = typer.Option(0, min=0, help="Of the planted facts.")
_DEVICE = typer.Option("auto", help="auto, cpu or cuda.")
_JSON = typer.Option(False, "--json", help="Print one JSON object.")


@app.command()
def calibrate(
    model: str = _MODEL,
    text: list[Path] = _TEXT,
    out: Path | None = _OUT,
    seed: int = _SEED,
    device: str = _DEVICE,
    as_json: bool = _JSON,
) -> None:
    """Rank the heads of a frozen model on lookup tasks over any text; nothing is trained.

    The result is a small JSON file that the lens ``heads`` reads. A run calibrates its model by
    itself on first use; this command does it ahead, or on other text.

    Example: megacontext calibrate --model smollm2 --text book.txt
    """
    silence_libraries()
    from megacontext.core.cli.evaluate import bar
    from megacontext.core.heads.calibrate import CalibrateOptions
    from megacontext.core.heads.calibrate import calibrate as run
    from megacontext.core.heads.calibration import cache_folder
    from megacontext.core.model import BaseModel

    base = BaseModel.load(model, device=device)
    console = Console(stderr=as_json, quiet=as_json)
    with bar("calibrating", console) as progress:
        result = run(base, text, CalibrateOptions(seed=seed), progress)
    path = out or cache_folder() / "heads" / f"{result.model}.json"
    result.save(path)
    if as_json:
        record: dict[str, Any] = {"path": str(path), "model": result.model} | result.metrics
        record |= {"heads": result.heads, "bytes_per_token": result.bytes_per_token}
        typer.echo(json.dumps(record))
        return
    heads = ", ".join(f"{layer}.{head}" for layer, head in result.heads)
    metrics = result.metrics
    console.print(f"heads (layer.head): {heads}; {result.bytes_per_token} bytes a token")
    console.print(
        f"on wording that chose none of them: mean reciprocal rank {metrics['held_out_mrr']:.2f}, "
        f"first in {metrics['held_out_recall_at_1']:.0%} of the questions by one of the heads"
    )
    console.print(f"written to {path}")
