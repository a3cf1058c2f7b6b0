"""``megacontext configs``: the packaged configs, and what each key of a config means."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megacontext.traces.errors import ConfigError
from megacontext.traces.packaged import config_folder, config_hint, config_names, find_config

app = typer.Typer(help="Packaged configs: list, show, copy; explain a key of a config.")

_JSON = typer.Option(False, "--json", help="Print one JSON object.")


@app.callback(invoke_without_command=True)
def configs(context: typer.Context, as_json: bool = _JSON) -> None:
    """List the packaged configs, or work with one: show, copy, explain.

    Every command's --config takes a name of this list where no such file exists.

    Example: megacontext configs
    """
    if context.invoked_subcommand is not None:
        return
    known = {name: _about(config_folder() / f"{name}.yaml") for name in config_names()}
    if as_json:
        print(json.dumps({"folder": str(config_folder()), "configs": known}))
        return
    table = Table("name", "what", box=None)
    for name, about in known.items():
        table.add_row(escape(name), escape(about))
    Console().print(table)


@app.command()
def show(name: str = typer.Argument(..., help="Name of a packaged config.")) -> None:
    """Print a packaged config.

    Example: megacontext configs show demo
    """
    print(_packaged(name).read_text(encoding="utf-8"), end="")


@app.command()
def copy(
    name: str = typer.Argument(..., help="Name of a packaged config."),
    out: Path | None = typer.Option(None, help="File to write; default: NAME.yaml in this folder."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace a file that exists."),
) -> None:
    """Copy a packaged config, to change it.

    Example: megacontext configs copy text --out mine.yaml
    """
    source = _packaged(name)
    target = source.name if out is None else out
    target = Path(target) / source.name if Path(target).is_dir() else Path(target)
    if target.exists() and not overwrite:
        raise ConfigError(f"--out {target} exists; choose another --out or pass --overwrite.")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    print(target)


@app.command()
def explain(
    key: str = typer.Argument("", help="Key or section, such as focus.tau_expand; none: all."),
    all_: bool = typer.Option(False, "--all", help="Print the whole reference as Markdown."),
    as_json: bool = _JSON,
) -> None:
    """What a key of a run's config means: type, default, legal values.

    A section explains everything in it.

    Example: megacontext configs explain focus.tau_expand
    """
    from megacontext.core.config.reference import entries, reference
    from megacontext.core.config.reference import explain as explain_key

    if all_:
        print(reference(), end="")
        return
    chosen = explain_key(key) if key else list(entries())
    if as_json:
        print(json.dumps({"keys": [_record(entry) for entry in chosen]}))
        return
    console = Console(soft_wrap=True, highlight=False)
    for entry in chosen:
        console.print(f"[bold]{escape(entry.path)}[/]  {escape(entry.help)}")
        if entry.type:
            legal = f"; {entry.legal}" if entry.legal else ""
            console.print(escape(f"    {entry.type}, default {entry.default}{legal}"))


def _record(entry: Any) -> dict[str, str]:
    return {**asdict(entry), "set": f"--set {entry.plain}={entry.default}" if entry.type else ""}


def _packaged(name: str) -> Path:
    path = find_config(Path(name))
    within = config_folder() in path.parents
    named = config_folder() / f"{Path(name).as_posix().removesuffix('.yaml')}.yaml"
    if not within and not named.is_file():
        raise ConfigError(f"NAME {name!r} is no packaged config; {config_hint(Path(name))}")
    return path if within else named


def _about(path: Path) -> str:
    """The first comment of a config: its first sentence, or its first line."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# ").rstrip())
    text = " ".join(words)
    first = text.partition(". ")[0].partition(":  ")[0].rstrip(".:")
    return first.partition(" megacontext ")[0].rstrip(" :;,")
