"""``megacontext data``: prepare shards, train a tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Datasets: tokenizer, shards, recall text.", no_args_is_help=True)


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


@app.command()
def tokenizer(
    config: Annotated[Path, typer.Option(help="YAML file whose sources are read.")],
    out: Annotated[Path, typer.Option(help="New folder; `tokenizer` of a data config names it.")],
    vocab_size: Annotated[int, typer.Option(min=300, max=65_536, help="Tokens.")] = 8192,
    window: Annotated[
        int, typer.Option(min=1, help="Longest input of the model, which the folder records.")
    ] = 1024,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
) -> None:
    """Train a byte-level BPE on the sources of a data config; equal texts give equal bytes.

    The `tokenizer` key of the config may name a folder that is not there yet.

    Example: megacontext data tokenizer --config configs/data/corpora.yaml --out runs/tokenizer
    """
    from rich.console import Console

    from megacontext.core.config.settings import load
    from megacontext.core.data.prepare import DataConfig
    from megacontext.core.data.progress import stages
    from megacontext.core.data.readers import read_texts
    from megacontext.core.data.tokenizer import save_tokenizer, train_tokenizer
    from megacontext.traces.errors import ConfigError, StorageError

    settings = load(DataConfig, config, set_ or [])
    if (out / "tokenizer.json").exists():
        raise ConfigError(f"--out {out} holds a tokenizer already; name another folder.")

    with stages(Console(stderr=True)) as progress:
        texts = read_texts(settings.sources, lambda count: progress("characters", count))
        trained = train_tokenizer(texts, vocab_size)
    try:
        save_tokenizer(trained, out, window)
    except OSError as error:
        raise StorageError(f"--out {out} cannot be written ({error.strerror}).") from error
    print(f"{out}: {trained.get_vocab_size():,} tokens")
