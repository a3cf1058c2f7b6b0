"""``megacontext data``: text to shards, recorded sessions and logs to states."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    help="Datasets: tokenizer, shards of text, recall text, states of recorded sessions.",
    no_args_is_help=True,
)


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
        configured = settings.teacher or Teacher(str(teacher))
        settings = replace(settings, teacher=replace(configured, model=str(teacher)))
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


@app.command("from-traces")
def from_traces(
    traces: Annotated[list[Path] | None, typer.Argument(help="Traces of sessions.")] = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(help="Conversations or an agent's log, JSON Lines; may repeat."),
    ] = None,
    tokenizer: Annotated[str, typer.Option(help="Folder of the base model, or demo.")] = "demo",
    out: Annotated[Path, typer.Option(help="Folder for states and shards.")] = Path("runs/states"),
    blocks: Annotated[int, typer.Option(min=4, help="Newest blocks of a state.")] = 96,
    horizon: Annotated[int, typer.Option(min=1, help="Tokens that came next.")] = 64,
    block_size: Annotated[int, typer.Option(min=2, help="Tokens of a block.")] = 32,
    every: Annotated[int, typer.Option(min=1, help="A state of every so many refocuses.")] = 4,
    limit: Annotated[int, typer.Option(min=1, help="Most states of one file.")] = 1024,
    json_: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Turn recorded sessions, conversations and agents' logs into training states of LensNet.

    A state is a stretch of history, the level of each block as the session had it, and the tokens
    that came next; `train lensnet --set recorded=FOLDER` measures what each entry was worth to
    them. A log has no levels: its states stand before each reply. The texts themselves become
    shards in the same folder. Needs no GPU: seconds for a trace of 65,000 tokens.

    Example: megacontext data from-traces runs/demo.arrow --log chats.jsonl --out runs/states
    """
    import sys

    from megacontext.core.data.from_traces import StateOptions, collect_states
    from megacontext.core.runtime.pretrained import DEMO, bundle_folder

    options = StateOptions(blocks, horizon, block_size, every, limit)
    counts = collect_states(
        traces or [],
        log or [],
        bundle_folder() / "base" if tokenizer == DEMO else Path(tokenizer),
        out,
        options,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if json_:
        print(json.dumps(counts, sort_keys=True))
    else:
        print(
            f"{out}: {counts['from_traces']:,} states of traces, {counts['from_logs']:,} of logs, "
            f"{counts['tokens']:,} tokens of text"
        )
