"""``megacontext tree``: look at, check and re-gist a tree on disk. Thin over ``core.tree``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

app = typer.Typer(help="Work on a tree on disk: info, verify, regist.", no_args_is_help=True)

_TREE = typer.Argument(..., metavar="DIR", help="The folder of a tree (--tree of a run).")
_JSON = typer.Option(False, "--json", help="Print one JSON object.")


@app.command()
def info(tree: Path = _TREE, as_json: bool = _JSON) -> None:
    """What a tree holds, and which model and GistNet it belongs to.

    Example: megacontext tree info runs/disk.tree
    """
    from megacontext.core.tree import Tree

    with Tree.open(tree, write=False) as results:
        spec = results.spec
        metrics: dict[str, Any] = {
            "tree": str(tree),
            "id": results.tree_id,
            "created": results.created,
            "tokens": results.n_tokens,
            "nodes": [results.n_nodes(level) for level in range(1, spec.max_levels + 1)],
            "bytes": sum(file.stat().st_size for file in tree.iterdir() if file.is_file()),
            **spec.as_dict(),
            "notes": list(results.recovery.notes) if results.recovery else [],
        }
    if as_json:
        print(json.dumps(metrics))
        return
    table = Table(box=None, show_header=False, title="Tree", title_justify="left")
    for name, value in metrics.items():
        lines = [f"{v:,}" if isinstance(v, int) else str(v) for v in _listed(value)]
        table.add_row(name.replace("_", " "), escape(", ".join(lines)))
    Console().print(table)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@app.command()
def verify(tree: Path = _TREE, as_json: bool = _JSON) -> None:
    """Check headers, counts, token ids and the checksum of all committed bytes.

    Exit code 1 with one sentence per finding.

    Example: megacontext tree verify runs/disk.tree
    """
    from megacontext.core.tree import Tree

    with Tree.open(tree, write=False) as results:
        tokens, problems = results.n_tokens, results.verify()
    if as_json:
        print(json.dumps({"ok": not problems, "tokens": tokens, "problems": problems}))
    else:
        print(f"{'FAILED' if problems else 'ok'}: {tokens:,} tokens.")
        for problem in problems:
            print(f"  problem: {problem}")
    if problems:
        raise typer.Exit(1)


@app.command()
def regist(
    tree: Path = _TREE,
    config: Path = typer.Option(..., help="Config of the runs that will use the tree."),
    set_: list[str] = typer.Option([], "--set", help="Override: key.path=value; may repeat."),
    as_json: bool = _JSON,
) -> None:
    """Make all gists and keys anew with the GistNet of a config; the tokens stay.

    A crash leaves the old gists or the new ones. It also repairs damaged gist files.

    Example: megacontext tree regist runs/disk.tree --config configs/disk.yaml
    """
    from megacontext.core.config import load_config
    from megacontext.core.runtime.pretrained import resolve_kinds
    from megacontext.core.tree.manifest import read_manifest
    from megacontext.traces.errors import StorageError
    from megacontext.traces.files import OS_FILES

    loaded = resolve_kinds(load_config(config, set_))
    before = read_manifest(OS_FILES, tree).spec
    if before.model != loaded.model.path:
        raise StorageError(
            f"the tree in {tree} belongs to model {before.model!r}, not to model.path "
            f"{loaded.model.path!r}; its tokens mean nothing to another model, start a new tree."
        )
    from megacontext.core.runtime.build import load_base, make_gister, tokenizer_id
    from megacontext.core.tree import regist as regist_tree

    base = load_base(loaded)
    if before.tokenizer not in ("", tokenizer_id(base)):
        raise StorageError(
            f"the tree in {tree} holds ids of tokenizer {before.tokenizer!r}, model.path "
            f"{loaded.model.path!r} has {tokenizer_id(base)!r}; start a new tree."
        )
    encoder = make_gister(loaded, base)
    console = Console(stderr=True, quiet=as_json)
    columns = ("regist", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = as_json or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("regist", total=None)
        regist_tree(
            tree,
            encoder,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    was, now = before.gist_checkpoint, encoder.checkpoint_id
    if as_json:
        print(json.dumps({"tree": str(tree), "before": was, "after": now}))
    else:
        print(f"{tree}: gists of {was} replaced by those of {now}.")
