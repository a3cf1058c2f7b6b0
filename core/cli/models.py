"""``megacontext models``: which architectures run, and whether one model does."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress

from megacontext.core.cli.progress import silence_libraries
from megacontext.traces.errors import ConfigError

app = typer.Typer(add_completion=False, help="Which models run in a working context.")

_MARK = "<!-- written by: megacontext models parity --out docs/models.md -->\n"


@app.callback()
def _group() -> None:
    """Which models run in a working context."""


@app.command()
def parity(
    only: str | None = typer.Option(None, help="Model types joined by commas; default: all."),
    out: Path | None = typer.Option(
        None, help="Markdown page whose part behind the mark line is written anew."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the rows as one JSON list."),
) -> None:
    """Check a tiny random model of every decoder-only class of transformers.

    Example: megacontext models parity --only llama,gemma2,mamba
    """
    console = Console(stderr=True, quiet=as_json)
    silence_libraries()
    import transformers

    from megacontext.core.model.survey import as_markdown, survey
    from megacontext.core.model.tiny import architectures

    names = only.split(",") if only else None
    unknown = sorted(set(names or ()) - set(architectures()))
    if unknown:
        raise ConfigError(
            f"--only names {unknown[0]!r}, which transformers {transformers.__version__} has no "
            "causal language model for; give model types such as llama."
        )
    transformers.logging.set_verbosity_error()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("architectures", total=None)
        rows = survey(names, lambda done, total: bar.update(task, completed=done, total=total))
    text = f"With transformers {transformers.__version__}.\n\n{as_markdown(rows)}"
    if out is not None:
        _write(out, text)
    print(json.dumps([asdict(row) for row in rows]) if as_json else text)


def _write(out: Path, text: str) -> None:
    page = out.read_text(encoding="utf8") if out.exists() else "# Models\n\n" + _MARK
    head, mark, _ = page.partition(_MARK)
    if not mark:
        raise ConfigError(
            f"--out {out} has no line {_MARK.strip()!r}, behind which the list goes; add it or "
            "name another file."
        )
    out.write_text(f"{head}{_MARK}\n{text.rstrip()}\n", encoding="utf8")
