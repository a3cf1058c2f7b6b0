"""Training checkpoints: safetensors for tensors, JSON for the rest, never pickle.

A checkpoint is a folder ``step-00001234`` with ``model.safetensors``, ``optimizer.safetensors``
and ``state.json``. It is written under another name and renamed, and one of the same step is
renamed away before it is deleted: a folder that has a step's name is whole, whenever a kill comes.
``latest.json`` and ``best.json`` name folders and are replaced atomically.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from megacontext.traces.errors import StorageError

__all__ = [
    "Checkpoint",
    "check_shapes",
    "find",
    "mark",
    "read",
    "set_aside",
    "write",
    "write_json",
]


@dataclass(frozen=True)
class Checkpoint:
    """``state`` holds step, phase, elapsed seconds, tokens seen and the best figure so far."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def write_json(path: Path, value: object) -> None:
    """Replace ``path`` atomically."""
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf8")
    partial.replace(path)


def write(
    run: Path,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write one checkpoint, mark it latest, drop all but the newest ``keep`` and the best.

    Raises:
        StorageError: it cannot be written; the checkpoints before it stay.
    """
    folder = run / f"step-{int(state['step']):08d}"
    partial = run / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)

    # Written under another name first: a folder with a step's name is whole.
    for name, tensors in (("model", model), ("optimizer", optimizer)):
        plain = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
        try:
            save_file(plain, partial / f"{name}.safetensors")
        except SafetensorError as error:
            raise StorageError(
                f"{partial}: {error}; make room on the disk and go on with --resume."
            ) from error
    write_json(partial / "state.json", dict(state))

    if folder.exists():
        _remove(folder)
    partial.rename(folder)
    mark(run, "latest", folder)

    # The best one stays, however old it is.
    protected = {folder.name, _marked(run, "best")}
    for old in sorted(run.glob("step-*"))[:-keep]:
        if old.name not in protected:
            _remove(old)
    return folder


def _remove(folder: Path) -> None:
    destination = folder.with_name("removed")
    shutil.rmtree(destination, ignore_errors=True)
    folder.rename(destination)
    shutil.rmtree(destination)


def mark(run: Path, name: str, folder: Path) -> None:
    """Let ``latest`` or ``best`` name ``folder``."""
    write_json(run / f"{name}.json", {"folder": folder.name})


def _marked(run: Path, name: str) -> str:
    path = run / f"{name}.json"
    if not path.is_file():
        return ""
    try:
        return str(json.loads(path.read_text(encoding="utf8"))["folder"])
    except (json.JSONDecodeError, KeyError) as error:
        raise StorageError(
            f'{path} is damaged; delete it, or write {{"folder": "step-…"}} into it.'
        ) from error


def find(run: Path, name: str = "latest") -> Path | None:
    """The folder that ``latest`` or ``best`` names, or None when the run has none yet.

    A kill may have come while the latest one was being replaced: then the newest other one.
    """
    folder = _marked(run, name)
    if folder and (run / folder).is_dir():
        return run / folder
    whole = sorted(run.glob("step-*"))
    return whole[-1] if folder and whole and name == "latest" else None


def set_aside(run: Path) -> Path | None:
    """Move an earlier run in ``run`` to ``run/previous``; None if there is none.

    So a new run in the same folder cannot overwrite a checkpoint that was not resumed, and resuming
    it cannot pick up the old one. Only one earlier run is kept.
    """
    metrics = ("figures.json", "metrics.csv", "metrics.arrow", "metrics.html")
    names = ("latest.json", "best.json", *metrics)
    old_paths = [
        *sorted(run.glob("step-*")),
        *(run / name for name in names if (run / name).exists()),
    ]
    if not any(path.is_dir() for path in old_paths):
        return None
    destination = run / "previous"
    shutil.rmtree(destination, ignore_errors=True)
    destination.mkdir()
    for path in reversed(old_paths):  # marks first: a kill leaves no mark without its folder
        path.rename(destination / path.name)
    return destination


def read(folder: Path) -> Checkpoint:
    """Load one checkpoint.

    Raises:
        StorageError: a file of it is missing or damaged.
    """
    try:
        return Checkpoint(
            load_file(folder / "model.safetensors"),
            load_file(folder / "optimizer.safetensors"),
            json.loads((folder / "state.json").read_text(encoding="utf8")),
        )
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise StorageError(
            f"checkpoint: {folder} is incomplete or damaged ({error}); resume from an older "
            "step folder or start again."
        ) from error


def check_shapes(
    folder: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Refuse a checkpoint whose tensors are not those of the model.

    Raises:
        StorageError: a tensor is missing, is unknown or has another shape.
    """
    for name in sorted(expected.keys() | tensors.keys()):
        model_shape = tuple(expected[name].shape) if name in expected else None
        saved_shape = tuple(tensors[name].shape) if name in tensors else None
        if model_shape != saved_shape:
            raise StorageError(
                f"--resume: {folder} has {name} {saved_shape or 'not at all'} and the model has it "
                f"{model_shape or 'not at all'}; set the sizes of that run, or choose another "
                "--out folder."
            )
