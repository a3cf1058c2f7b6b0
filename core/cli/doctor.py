"""``megacontext doctor``: what works on this machine and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(add_completion=False)

EXTRAS = {
    "textual": "mc-tui",
    "ray": "batch --engine ray (extra 'ray')",
    "wandb": "training log to W&B (extra 'wandb')",
    "tensorboard": "training log to TensorBoard (extra 'tensorboard')",
    "opentelemetry": "training log to OTLP (extra 'otel')",
    "textual_serve": "mc-tui serve (extra 'web')",
}


@dataclass(frozen=True)
class Check:
    """One line of the report. ``state`` is ok, missing (optional) or failed (needed)."""

    name: str
    state: str
    detail: str


def _python() -> Check:
    good = sys.version_info >= (3, 11)
    return Check("Python", "ok" if good else "failed", platform.python_version())


def _versions() -> Check:
    names = ("torch", "transformers", "pyarrow", "numpy")
    libraries = [f"{n} {importlib.metadata.version(n)}" for n in names]
    return Check("libraries", "ok", ", ".join(libraries))


def _device() -> Check:
    import torch

    if not torch.cuda.is_available():
        cores = os.cpu_count() or 1
        return Check("GPU", "missing", f"none; models run on {cores} CPU cores in float32")
    free, total = torch.cuda.mem_get_info()
    name = torch.cuda.get_device_name()
    return Check("GPU", "ok", f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")


def _bundle() -> Check:
    from megacontext.core.runtime.pretrained import bundle_folder, bundle_parts

    parts = bundle_parts()
    if "base" not in parts:
        return Check("bundled model", "failed", f"no base in {bundle_folder()}; reinstall")
    return Check("bundled model", "ok", ", ".join(parts))


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    state = "ok" if free > 2**30 else "failed"
    return Check("disk", state, f"{free / 2**30:.1f} GiB free here")


def _socket() -> Check:
    import socket

    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(Path(folder) / "s"))
    return Check("control socket", "ok", "local sockets work")


def _terminal() -> Check:
    if not sys.stdout.isatty():
        return Check("terminal", "missing", "output is no terminal; mc-tui needs one")
    size = shutil.get_terminal_size()
    color = os.environ.get("COLORTERM") or os.environ.get("TERM", "unknown")
    return Check("terminal", "ok", f"{size.columns}x{size.lines}, {color}")


def _extras() -> list[Check]:
    checks = []
    for module, use in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        checks.append(Check(module, "ok" if there else "missing", use))
    return checks


def _run(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except (ImportError, OSError, RuntimeError, importlib.metadata.PackageNotFoundError) as error:
        return Check(check.__name__.strip("_"), "failed", f"{type(error).__name__}: {error}")


@app.command()
def doctor(
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Check Python, libraries, GPU, bundled model, disk, sockets, terminal and extras.

    Exit code 1 if something that is needed fails.

    Example: megacontext doctor
    """
    checks = [_run(c) for c in (_python, _versions, _device, _bundle, _disk, _socket, _terminal)]
    checks += _extras()
    failed = any(c.state == "failed" for c in checks)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(c) for c in checks]}))
    else:
        table = Table("check", "state", "detail", box=None)
        styles = {"ok": "green", "missing": "yellow", "failed": "bold red"}
        for check in checks:
            state = f"[{styles[check.state]}]{check.state}[/]"
            table.add_row(check.name, state, check.detail)
        Console().print(table)
    raise typer.Exit(1 if failed else 0)
